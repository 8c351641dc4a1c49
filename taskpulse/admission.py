"""What the web role's main thread sees of a request before it is served, by a thread or in a turn, and how it refuses one.

It looks at what has arrived without taking it (recv(2), MSG_PEEK): a request whose head or small body is not whole yet
waits at no thread's expense, a probe has threads of its own, and a refusal costs no thread at all.
"""

import contextlib
import fcntl
import http.client
import itertools
import json
import re
import socket
import struct
import termios
import uuid
from email.utils import formatdate
from enum import Enum

from taskpulse import problem_types

# A longer head is left to the parser, which has limits of its own.
_HEAD_BYTES = 8192
_END_OF_HEAD = b"\r\n\r\n"
# A request up to so many bytes is awaited whole: PostgreSQL's work on it is what a thread is for.
_AWAITED_BYTES = 65_536
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*\r\n")
_LIVENESS = (b"/healthz", b"/health")
_OTHER_PROBES = (b"/readyz", b"/ready", b"/metrics")
# What waits for nothing but PostgreSQL, and not for long: a task is made, read or changed.
_SHORT = re.compile(rb"(?:POST /api/tasks|(?:GET|PATCH|PUT) /api/tasks/[0-9a-fA-F-]{36})/? HTTP/1\.1\r\n")
# A request that names one of these may not end where its length says, or its sender waits for something before.
_ENDS_OTHERWISE = (b"transfer-encoding", b"expect", b"upgrade")
# The caller's own id of the request, as far as taskpulse/middleware.py takes it.
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9._:/+=@-]{1,128})[ \t]*\r\n", re.IGNORECASE)
# Seconds; in turn, so that those who were refused together do not come back together.
_RETRY_AFTER = itertools.cycle((1, 2, 3))


class Arrived(Enum):
    NOTHING = "nothing"
    END = "end"
    PART = "part of a request"
    REQUEST = "request"
    SHORT = "a short request, whole"
    LIVENESS = "liveness probe, whole"
    PROBE = "probe of readiness or metrics, whole"


def look(connection: socket.socket) -> tuple[Arrived, bytes, int]:
    """What has arrived on a plain TCP connection; its first bytes, which stay there; and for a part, how many bytes at
    least there must be before there is any use in looking again, for what is whole, how many it has. Never blocks."""
    try:
        head = connection.recv(_HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return Arrived.NOTHING, b"", 1
    except OSError:
        return Arrived.END, b"", 0
    if not head:
        return Arrived.END, head, 0
    end = head.find(_END_OF_HEAD)
    if end < 0:
        return (Arrived.PART, head, len(head) + 1) if len(head) < _HEAD_BYTES else (Arrived.REQUEST, head, 0)
    # Which kinds of requests have no body is not asked; one that says how long it is waits for that.
    names = head[: end + 2].lower()
    length = _CONTENT_LENGTH.search(names)
    whole = end + len(_END_OF_HEAD) + (int(length[1]) if length else 0)
    if len(head) < whole <= _AWAITED_BYTES and _available(connection) < whole and b"expect" not in names:
        return Arrived.PART, head, whole
    ends_so = names.count(b"content-length") == (length is not None) and not _names(names, *_ENDS_OTHERWISE)
    if whole <= _AWAITED_BYTES and ends_so and _SHORT.match(head):
        return Arrived.SHORT, head, whole
    # A probe with a body would keep one of the few threads for probes waiting for it.
    if head.startswith((b"GET /h", b"GET /r", b"GET /m")) and not _names(head, b"content-length", b"transfer-encoding"):
        path = head[4 : head.find(b" ", 4)].partition(b"?")[0].removesuffix(b"/")
        if path in _LIVENESS:
            return Arrived.LIVENESS, head, whole
        if path in _OTHER_PROBES:
            return Arrived.PROBE, head, whole
    return Arrived.REQUEST, head, 0


def _available(connection: socket.socket) -> int:
    """How many bytes there are to read (tcp(7), FIONREAD)."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4))[0]


def wake_at(connection: socket.socket, length: int) -> None:
    """From now on the poller reports the connection once at least so many bytes are there (socket(7), SO_RCVLOWAT), or its end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, length)


def refuse(connection: socket.socket, may_keep: bool) -> bool:
    """Answers the request that has arrived with 503 and `Retry-After`; never blocks. True if the connection is kept.

    It is kept only where the request's end is beyond doubt: a GET of HTTP/1.1 whose head names no body and after which
    nothing follows. To guess where a body ends would let a caller smuggle the next request (RFC 9112 §11.2).
    """
    _, head, _ = look(connection)
    keep = (
        may_keep
        and head.startswith(b"GET ")
        and head.find(_END_OF_HEAD) == len(head) - len(_END_OF_HEAD)
        and b" HTTP/1.1\r\n" in head
        and not _names(head, b"content-length", b"transfer-encoding", b"upgrade", b"connection")
    )
    try:
        connection.recv(len(head), socket.MSG_DONTWAIT)
        connection.send(_refusal(head, next(_RETRY_AFTER), keep), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return keep


def give_up(connection: socket.socket) -> None:
    """Says that the request did not come in time (RFC 9110 §15.5.9); never blocks."""
    with contextlib.suppress(OSError):
        connection.send(message(408, "The request did not arrive in time.", "Connection: close"), socket.MSG_DONTWAIT)


def _names(head: bytes, *names: bytes) -> bool:
    """Whether one of these words is anywhere in the head, which is more careful than to parse it."""
    lowered = head.lower()
    return any(name in lowered for name in names)


def _refusal(head: bytes, retry_after: int, keep: bool) -> bytes:
    detail = f"More requests wait than can be served in time. Try again in {retry_after} s."
    more = (f"Retry-After: {retry_after}", f"Connection: {'keep-alive' if keep else 'close'}")
    given = _REQUEST_ID.search(head.partition(_END_OF_HEAD)[0] + b"\r\n")
    whole = message(503, detail, *more, request_id=given[1].decode() if given else None)
    return whole[: whole.index(_END_OF_HEAD) + len(_END_OF_HEAD)] if head.startswith(b"HEAD ") else whole


def message(status: int, detail: str, *headers: str, request_id: str | None = None) -> bytes:
    """A whole answer with a problem, for a request that no application sees."""
    request_id = request_id or str(uuid.uuid4())
    body = json.dumps(problem_types.document(problem_types.named(status), detail, request_id), separators=(",", ":"))
    lines = (
        f"HTTP/1.1 {status} {http.client.responses[status]}",
        f"Date: {formatdate(usegmt=True)}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        f"X-Request-ID: {request_id}",
        *headers,
    )
    return "\r\n".join((*lines, "", body)).encode()
