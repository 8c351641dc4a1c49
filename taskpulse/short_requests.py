"""Requests that the main thread serves by itself, in turns: they have arrived whole, and wait for PostgreSQL and nobody else."""

import contextlib
import socket
import time
from collections.abc import Iterator

from django.conf import settings

from taskpulse.connections import ConnectionKeeper, Unsent
from taskpulse.pace import Pace


class ShortRequests(ConnectionKeeper):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # By connection whose request has a turn: since when.
        self._in_turn: dict[object, float] = {}
        self._turns_pace = Pace(self.cfg.threads, settings.WEB_QUEUE_MS / 1000)

    def take_turn(self, conn) -> bool:
        """Whether it gets one: not if that would take too long."""
        if self._turns_pace.is_too_long(self.turns.line):
            return False
        self.turns.submit(conn)
        return True

    def overdue(self) -> Iterator:
        """Those that have waited twice as long as they should, and get no turn any more."""
        line = self.turns.line
        while self._turns_pace.is_too_long(line) and self._turns_pace.is_overdue(line):
            yield line.popleft()[0]

    def serve_in_turn(self, conn) -> tuple:
        self._in_turn[conn] = time.monotonic()
        return conn, *self.handle_whole(conn)

    def handle_whole(self, conn) -> tuple[bytearray, bool]:
        """Serves a request that has arrived. What is left of the answer, and whether the connection is kept."""
        conn.sock = unsent = Unsent(conn.sock)
        try:
            kept = super().handle(conn)
        finally:
            conn.sock = unsent.connection
        return unsent.answer, kept is True

    def finish_turn(self, conn, answer: bytearray, kept: bool) -> None:
        self._turns_pace.took(time.monotonic() - self._in_turn.pop(conn))
        if answer:
            self.send_rest(conn, answer, kept)
        else:
            self._answered(conn, kept)

    def send_rest(self, conn, answer: bytearray, kept: bool) -> None:
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
