"""Clients that send a request with its Idempotency-Key again and again until it is answered for good."""

import asyncio
import http.client
import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from tasks.models import OutboxEvent, Task
from tests.web_role import one_answer, read_answer, request

PATIENCE = 120.0


class RetryingClient:
    """One connection at a time, kept while it works."""

    def __init__(self, port: int):
        self._port, self._connection = port, None
        # Answers that said to come again, and connections that broke.
        self.retries = 0

    def send(self, raw: bytes) -> tuple[int, dict, bytes]:
        """The first answer that is neither 409 nor 503, however often the request has to be sent for it."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self._connection is None:
                    self._connection = socket.create_connection(("127.0.0.1", self._port), timeout=10)
                self._connection.sendall(raw)
                status, headers, body = one_answer(self._connection)
            except (OSError, http.client.HTTPException):
                status, headers, body = None, {"connection": "close"}, b""
            if headers.get("connection") == "close":
                self.close()
            if status not in (None, 409, 503):
                return status, headers, body
            assert time.monotonic() < end, f"no answer for good in {PATIENCE} s, the last was {status}"
            self.retries += 1
            time.sleep(random.uniform(0.005, 0.05))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def send_all(port: int, requests: Sequence[bytes], clients: int, meanwhile: Callable[[Callable[[], int]], None] | None = None):
    """The answers to `requests` in their order, and how many retries it took; so many clients share them.

    `meanwhile(done)` runs beside them in the caller's thread; `done()` is how many are answered.
    """
    found: list[tuple | None] = [None] * len(requests)
    everybody = [RetryingClient(port) for _ in range(clients)]
    start = threading.Barrier(clients)

    def work(client: RetryingClient, first: int) -> None:
        start.wait(30)
        for number in range(first, len(requests), clients):
            found[number] = client.send(requests[number])
        client.close()

    threads = [threading.Thread(target=work, args=(client, first)) for first, client in enumerate(everybody)]
    for thread in threads:
        thread.start()
    try:
        if meanwhile is not None:
            meanwhile(lambda: sum(answer is not None for answer in found))
    finally:
        for thread in threads:
            thread.join(2 * PATIENCE)
    return found, sum(client.retries for client in everybody)


def send_at_once(port: int, raw: bytes, count: int) -> tuple[list[tuple], list[tuple[int, dict]]]:
    """The answers for good, and what said to come again, of so many connections: all are open before the first request is
    sent, and then each sends it. A client comes again when `Retry-After` says."""

    async def everybody():
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
        return await asyncio.gather(*(_until_answered(port, raw, *pair, refusals) for pair in opened))

    refusals: list[tuple[int, dict]] = []
    return asyncio.run(everybody()), refusals


async def _until_answered(port: int, raw: bytes, reader, writer, refusals: list) -> tuple[int, dict, bytes]:
    end = time.monotonic() + PATIENCE
    while True:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        status, headers, body = await read_answer(reader)
        if headers.get("connection") == "close" or status not in (409, 503):
            writer.close()
            writer = None
        if status not in (409, 503):
            return status, headers, body
        refusals.append((status, headers))
        assert time.monotonic() < end, f"no answer for good in {PATIENCE} s, the last was {status}"
        await asyncio.sleep(int(headers["retry-after"]) * random.uniform(1, 1.5))


def creations(headers: dict, count: int) -> list[bytes]:
    """Requests that each create a task, whose title is the request's key."""
    keys = [str(uuid.uuid4()) for _ in range(count)]
    return [request("POST", "/api/tasks", headers | {"Idempotency-Key": f'"{key}"'}, {"title": key}) for key in keys]


def assert_each_was_done_once(answers: Sequence[tuple], again: Sequence[tuple]) -> None:
    """Each answer is a creation, and was the same when it was asked for again; there is one task and one event for each.
    Nothing may have taken events out of the outbox."""
    assert {status for status, _, _ in answers} == {201}
    assert [body for _, _, body in answers] == [body for _, _, body in again]
    assert all(headers["idempotent-replayed"] == "true" for _, headers, _ in again)
    made = [json.loads(body) for _, _, body in answers]
    assert len({task["id"] for task in made}) == len(made)
    assert Task.objects.filter(title__in=[task["title"] for task in made]).count() == len(made)
    assert OutboxEvent.objects.filter(task_id__in=[task["id"] for task in made]).count() == len(made)
