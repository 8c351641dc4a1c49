"""An HTTP/1.1 client: each keep-alive connection has one request under way, one thread drives them all.

Its own cost is some tens of microseconds a request, the same for whatever it drives, and is reported.
"""

import select
import socket
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

# Stands in a body where a number of eight digits comes.
MARKER = "@" * 8
_SEPARATOR = b"\r\n\r\n"


class RequestFailed(Exception):
    """The server answered with an error or hung up: the figures would mean nothing."""


@dataclass(slots=True)
class Load:
    requests: int
    seconds: float
    # Ascending, in milliseconds.
    latencies: list[float]
    client_cpu_us: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class _Connection:
    __slots__ = ("body_end", "received", "sent_at", "socket")

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.body_end = 0

    def send(self, request: bytes) -> None:
        self.received, self.body_end = b"", 0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def read(self) -> bool:
        """Takes what is there; true when the response is whole. Raises RequestFailed."""
        piece = self.socket.recv(262_144)
        if not piece:
            raise RequestFailed(f"connection closed after {self.received[:200]!r}")
        self.received = self.received + piece if self.received else piece
        if not self.body_end:
            head_end = self.received.find(_SEPARATOR)
            if head_end < 0:
                return False
            head = self.received[:head_end].lower()
            if head[9:10] != b"2":
                raise RequestFailed(self.received[:500].decode(errors="replace"))
            start = head.index(b"content-length:") + 15
            line_end = head.find(b"\r\n", start)
            length = int(head[start : line_end if line_end > 0 else None])
            self.body_end = head_end + len(_SEPARATOR) + length
        return len(self.received) >= self.body_end


def drive(port: int, next_request: Callable[[], bytes], connections: int, seconds: float) -> Load:
    """As fast as the server answers, for `seconds`; the answers under way then are awaited. Raises RequestFailed."""
    with _opened(port, connections) as (poll, by_number):
        latencies = []
        cpu, start = time.process_time(), time.perf_counter()
        end = start + seconds
        under_way = len(by_number)
        for connection in by_number.values():
            connection.send(next_request())
        while under_way:
            for number, _ in poll.poll(10):
                connection = by_number[number]
                if not connection.read():
                    continue
                now = time.perf_counter()
                latencies.append((now - connection.sent_at) * 1000)
                if now < end:
                    connection.send(next_request())
                else:
                    under_way -= 1
        return _load(latencies, start, cpu)


def drive_paced(port: int, next_request: Callable[[], bytes], connections: int, per_second: float, seconds: float) -> Load:
    """At a steady rate, as long as a connection is free; what is late is sent as soon as one is. Raises RequestFailed."""
    with _opened(port, connections) as (poll, by_number):
        latencies, free, sent = [], list(by_number.values()), 0
        total = round(per_second * seconds)
        cpu, start = time.process_time(), time.perf_counter()
        while len(latencies) < total:
            now = time.perf_counter()
            while free and sent < total and start + sent / per_second <= now:
                free.pop(0).send(next_request())  # the one that rested longest: a server closes what rests too long
                sent += 1
            due = start + sent / per_second if free and sent < total else now + 1
            for number, _ in poll.poll(max(0.0, due - time.perf_counter())):
                connection = by_number[number]
                if connection.read():
                    latencies.append((time.perf_counter() - connection.sent_at) * 1000)
                    free.append(connection)
        return _load(latencies, start, cpu)


@contextmanager
def _opened(port: int, count: int):
    poll = select.epoll()
    by_number = {}
    try:
        for _ in range(count):
            connection = _Connection(port)
            by_number[connection.socket.fileno()] = connection
            poll.register(connection.socket.fileno(), select.EPOLLIN)
        yield poll, by_number
    finally:
        for connection in by_number.values():
            connection.socket.close()
        poll.close()


def _load(latencies: list[float], start: float, cpu: float) -> Load:
    count, elapsed = len(latencies), time.perf_counter() - start
    return Load(count, elapsed, sorted(latencies), (time.process_time() - cpu) / count * 1e6)


def request(
    method: str, path: str, token: str | None = None, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """The bytes of one request; `path` may hold `%s`, `body` and headers MARKER."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Accept: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
