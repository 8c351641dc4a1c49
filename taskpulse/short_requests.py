"""Requests that the main thread serves by itself, in turns: they have arrived whole, and wait for PostgreSQL and nobody else."""

import contextlib
import socket
import time
from collections.abc import Iterator

from django.conf import settings

from taskpulse import responses
from taskpulse.connections import ConnectionKeeper
from taskpulse.pace import Pace
from taskpulse.whole_requests import Request, Requests, answer


class ShortRequests(ConnectionKeeper):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # By connection whose request has a turn: since when.
        self._in_turn: dict[object, float] = {}
        self._turns_pace = Pace(self.cfg.threads, settings.WEB_QUEUE_MS / 1000)

    def run(self):
        self.requests = Requests(self.cfg)
        super().run()

    def turns_are_late(self) -> bool:
        """Whether a request that comes now would wait too long for one."""
        return self._turns_pace.is_too_long(self.turns.line)

    def overdue(self) -> Iterator:
        """Those that have waited twice as long as they should, and get no turn any more."""
        line = self.turns.line
        while self.turns_are_late() and self._turns_pace.is_overdue(line):
            (conn, _), _ = line.popleft()
            yield conn

    def serve_in_turn(self, job: tuple) -> tuple:
        conn, request = job
        self._in_turn[conn] = time.monotonic()
        return conn, *self.serve_whole(request, conn)

    def serve_whole(self, request: Request, conn) -> tuple[bytes, bool]:
        """Waits for no client. What is left of the answer, and whether the connection is kept."""
        try:
            conn.sock.recv(request.length, socket.MSG_DONTWAIT)
            kept = self._keeps_one_more() and request.keeps
            whole = answer(self.wsgi, request, kept)
        except Exception:
            self.log.exception("the application failed at %s %s", request.environ["REQUEST_METHOD"], request.environ["PATH_INFO"])
            responses.write_error(conn.sock, 500, "", "")
            return b"", False
        return self._sent_at_once(conn, whole, kept)

    def _keeps_one_more(self) -> bool:
        """Counts it, as gunicorn does (`--max-requests`)."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("this worker has served %d requests and is replaced", self.nr)
            self.alive = False
        return self.alive and bool(self.cfg.keepalive) and len(self.keepalived_conns) < self.max_keepalived

    def _sent_at_once(self, conn, whole: bytes, kept: bool) -> tuple[bytes, bool]:
        try:
            return whole[conn.sock.send(whole, socket.MSG_DONTWAIT) :], kept
        except BlockingIOError:
            return whole, kept
        except OSError:  # the client is gone
            return b"", False

    def finish_turn(self, conn, left: bytes, kept: bool) -> None:
        self._turns_pace.took(time.monotonic() - self._in_turn.pop(conn))
        if left:
            self.send_rest(conn, left, kept)
        else:
            self._answered(conn, kept)

    def send_rest(self, conn, left: bytes, kept: bool) -> None:
        """The client is slower than the network holds: somebody else is to wait for it."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        super().tick(now)
        self.turns.end_waits(now)
        for conn, began in self._in_turn.items():
            if now - began > settings.WEB_REQUEST_SECONDS:
                self.end(conn)

    def end(self, conn) -> None:
        self.log.info("a request takes longer than %d s, its connection is closed", settings.WEB_REQUEST_SECONDS)
        shut(conn.sock, socket.SHUT_RDWR)


def shut(connection: socket.socket, how: int) -> None:
    # It may have been closed just now.
    with contextlib.suppress(OSError):
        connection.shutdown(how)
