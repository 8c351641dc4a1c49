"""The web role as a process: gunicorn with its real configuration; clients that wait for answers, in one thread."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from tests.running_up import ROOT, free_port, wait_until


class WebRole:
    def __init__(self, directory: Path, port: int | None = None, **environment: str):
        self.port = port or free_port()
        self.log_path = directory / f"web-{self.port}.log"
        self._environment = {"WEB_CONCURRENCY": "2", "TASKPULSE_WEB_DRAIN_SECONDS": "0", "PYTHONWARNINGS": "ignore"} | environment
        self.process: subprocess.Popen | None = None

    def start(self) -> "WebRole":
        command = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"127.0.0.1:{self.port}"]
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "taskpulse.wsgi"], cwd=ROOT, env=os.environ | self._environment, stdout=log, stderr=log
            )
        wait_until(lambda: self.process.poll() is not None or self.status("/healthz") == 200, 30, "the web role answers")
        assert self.process.poll() is None, self.log
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                for process in [*self.workers(), self.process]:
                    process.send_signal(signal.SIGKILL)
                self.process.wait(10)

    def status(self, path: str, timeout: float = 5) -> int | None:
        """None if there was no answer in time."""
        try:
            return self.call("GET", path, timeout=timeout)[0]
        except OSError:
            return None

    def call(self, method: str, path: str, body=None, headers=None, timeout: float = 20) -> tuple[int, dict, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers or {})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def connect(self, sent: bytes = b"", timeout: float = 10) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(sent)
        return connection

    def connect_without_reading(self, timeout: float) -> socket.socket:
        """What is between takes little of an answer."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        connection.settimeout(timeout)
        connection.connect(("127.0.0.1", self.port))
        return connection


def nanoseconds_by_thread(process: psutil.Process) -> dict[str, int]:
    """Of processor time, by the thread's number (Documentation/scheduler/sched-stats.rst)."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return {thread.name: int((thread / "schedstat").read_text().split()[0]) for thread in threads}


def make_creations_slow(database_url: str, seconds: float) -> None:
    """Each task takes so long to create, without a processor."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(
            f"CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END'"
        )
        database.execute("CREATE TRIGGER a_slowly BEFORE INSERT ON tasks_task FOR EACH ROW EXECUTE FUNCTION slowly()")


@contextmanager
def web_role(directory: Path, **environment: str):
    role = WebRole(directory, **environment)
    try:
        yield role.start()
    finally:
        role.stop()


def impatient_web_role(directory: Path):
    """One process of eight threads, which waits 1 s for a body and 3 s for a request."""
    return web_role(directory, WEB_CONCURRENCY="1", TASKPULSE_WEB_BODY_SECONDS="1", TASKPULSE_WEB_REQUEST_SECONDS="3")


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    while piece := connection.recv(65_536):
        found += piece
    return found


def request(method: str, path: str, headers: dict, body=None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    raw = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def one_answer(connection: socket.socket) -> tuple[int, dict, bytes]:
    """The next answer of a connection, read to its end."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@dataclass
class Answers:
    """What clients got: (status, seconds, headers) each, and each request that got no answer at all."""

    answers: list[tuple[int, float, dict]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def statuses(self) -> dict[int, int]:
        found = [status for status, _, _ in self.answers]
        return {status: found.count(status) for status in sorted(set(found))}

    def seconds(self, status: int, share: float) -> float:
        """The time within which this share of the answers with that status came."""
        times = sorted(seconds for found, seconds, _ in self.answers if found == status)
        return times[min(len(times) - 1, int(len(times) * share))]


class Clients:
    """`count` clients with a kept connection each, which send `make_request()` again and again, resting `pause` seconds
    between. A connection whose answer said `Connection: close` is made anew; any other loss is a failed request."""

    def __init__(self, port: int, make_request, count: int, pause: float = 0.0):
        self.port, self.make_request, self.count, self.pause = port, make_request, count, pause
        self.found = Answers()

    def run(self, seconds: float, meanwhile=None) -> Answers:
        """`meanwhile()` runs in a thread of its own beside the clients, which go on until it has returned, too."""

        async def everything():
            self._end = time.monotonic() + seconds
            self._busy = meanwhile is not None
            clients = asyncio.gather(*(self._client() for _ in range(self.count)))
            if meanwhile is not None:
                try:
                    await asyncio.to_thread(meanwhile)
                finally:
                    self._busy = False
            await clients

        asyncio.run(everything())
        return self.found

    @contextmanager
    def running(self):
        """The clients beside what the block does in the caller's thread."""
        over = threading.Event()
        thread = threading.Thread(target=self.run, args=[0, over.wait])
        thread.start()
        try:
            yield self.found
        finally:
            over.set()
            thread.join()

    async def _client(self) -> None:
        reader = writer = None
        while self._busy or time.monotonic() < self._end:
            began = time.monotonic()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(self.make_request())
                status, headers, _ = await asyncio.wait_for(read_answer(reader), 30)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.found.failed.append(repr(error))
                headers = {"connection": "close"}
            else:
                self.found.answers.append((status, time.monotonic() - began, headers))
            if headers.get("connection", "").lower() == "close" and writer is not None:
                writer.close()
                reader = writer = None
            await asyncio.sleep(self.pause)
        if writer is not None:
            writer.close()


async def read_answer(reader) -> tuple[int, dict, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split(" ")[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))
