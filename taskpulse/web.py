"""The web role's worker: gunicorn's threads, with fewer hand-overs between them, a bounded queue before them, and an end
to what holds one too long."""

import contextlib
import select
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from django.conf import settings

from taskpulse import drain
from taskpulse.admission import Arrived, look, refuse
from taskpulse.connections import ConnectionKeeper, Unsent, has_read_ahead
from taskpulse.metrics import WEB_REFUSED

# How long a thread waits for the next request of the connection that it just answered, in milliseconds. Longer than a busy
# client takes, shorter than anybody notices who waits for a thread.
_LINGER = 2
# The share of a new measurement in the average time of a request, and its first value in seconds.
_WEIGHT, _FIRST_SECONDS = 1 / 16, 0.005
# Seconds without a refusal after which an overload is over.
_CALM = 5.0


class LingeringWorker(ConnectionKeeper):
    """After an answer, a thread stays with its connection for a moment as long as no other connection waits for a thread.

    gunicorn gives a kept connection back to its main thread after each answer and takes a thread anew for the next
    request: two hand-overs, which cost as much as reading the request.

    A request is refused with 503 when those before it would make it wait longer than TASKPULSE_WEB_QUEUE_MS; probes and metrics
    have two threads of their own, which wait for no client. What a thread has served for TASKPULSE_WEB_BODY_SECONDS gets no
    more input, and after TASKPULSE_WEB_REQUEST_SECONDS its connection is closed.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Of the main thread alone: what was given to the pool, oldest first, with the time.
        self._waiting: deque[tuple[Future, float]] = deque()
        # By thread: when its request began, and whose it is.
        self._under_way: dict[int, tuple[float, object]] = {}
        self._seconds = _FIRST_SECONDS
        self._longest_wait = settings.WEB_QUEUE_MS / 1000
        self._refused, self._refused_at = 0, 0.0

    def get_thread_pool(self) -> ThreadPoolExecutor:
        self._liveness, self._readiness = ThreadPoolExecutor(1, "liveness"), ThreadPoolExecutor(1, "readiness")
        return super().get_thread_pool()

    def handle(self, conn):
        thread = threading.get_ident()
        while True:
            began = time.monotonic()
            self._under_way[thread] = (began, conn)
            try:
                kept = super().handle(conn)
            finally:
                del self._under_way[thread]
            # A long one (an export, a wait for the log) is rare and says nothing of the next: it counts as much as a wait may.
            self._seconds += (min(time.monotonic() - began, self._longest_wait) - self._seconds) * _WEIGHT
            if kept is not True or not self.alive or not self.tpool._work_queue.empty():
                return kept
            readable = select.poll()
            readable.register(conn.sock, select.POLLIN)
            if not readable.poll(_LINGER) or look(conn.sock)[0] is not Arrived.REQUEST:
                return kept

    def handle_probe(self, conn) -> tuple[bytearray, bool]:
        """The answer, for the main thread to send, and whether the connection is kept."""
        conn.sock = unsent = Unsent(conn.sock)
        try:
            kept = super().handle(conn)
        finally:
            conn.sock = unsent.connection
        return unsent.answer, kept is True

    def admit(self, conn, arrived: Arrived) -> None:
        if arrived is Arrived.LIVENESS:
            self._submit(self._liveness, self.handle_probe, conn, self.finish_probe)
        elif arrived is Arrived.PROBE:
            self._submit(self._readiness, self.handle_probe, conn, self.finish_probe)
        elif self._is_overloaded(time.monotonic()):
            self._refuse(conn)
        else:
            self._waiting.append((self._submit(self.tpool, self.handle, conn, self.finish_request), time.monotonic()))

    def _submit(self, pool: ThreadPoolExecutor, function, conn, finish) -> Future:
        future = pool.submit(function, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(finish, conn, done))
        return future

    def _is_overloaded(self, now: float) -> bool:
        """Whether a request that comes now would wait too long, by what waits before it and what one took lately; or
        whether the first that waits does so already, since the threads are stuck."""
        while self._waiting and (self._waiting[0][0].running() or self._waiting[0][0].done()):
            self._waiting.popleft()
        if not self._waiting:
            return False
        expected = len(self._waiting) * self._seconds / self.cfg.threads
        return expected > self._longest_wait or now - self._waiting[0][1] > self._longest_wait

    def _shed(self, now: float) -> None:
        """Refuses what has waited twice as long as it should: the threads became slower meanwhile."""
        while self._is_overloaded(now) and now - self._waiting[0][1] > 2 * self._longest_wait:
            self._waiting.popleft()[0].cancel()  # finish_request() comes, unless a thread was faster

    def _refuse(self, conn) -> None:
        if not self._refused:
            self.log.warning("overload: %d requests wait, more are refused until fewer do", len(self._waiting))
        self._refused += 1
        self._refused_at = time.monotonic()
        WEB_REFUSED.inc()
        if refuse(conn.sock, may_keep=self.alive and not has_read_ahead(conn)):
            self.keep(conn)
        else:
            self.close(conn)

    def finish_request(self, conn, fs):
        if fs.cancelled():
            self._refuse(conn)
        else:
            super().finish_request(conn, fs)

    def finish_probe(self, conn, fs):
        if fs.exception() is None:
            self.deliver(conn, *fs.result())
        else:
            self.close(conn)

    def wait_for_and_dispatch_events(self, timeout):
        super().wait_for_and_dispatch_events(timeout)
        if self._waiting:
            self._shed(time.monotonic())

    def tick(self, now: float) -> None:
        super().tick(now)
        if drain.requested():
            self.max_keepalived = 0  # each answer from now on says `Connection: close`
        if self._refused and now - self._refused_at > _CALM:
            self.log.info("the overload is over, %d requests were refused", self._refused)
            self._refused = 0
        for began, conn in list(self._under_way.values()):
            if now - began > settings.WEB_REQUEST_SECONDS:
                self.log.info("a request takes longer than %d s, its connection is closed", settings.WEB_REQUEST_SECONDS)
                _shut(conn.sock, socket.SHUT_RDWR)
            elif now - began > settings.WEB_BODY_SECONDS:
                _shut(conn.sock, socket.SHUT_RD)


def _shut(connection: socket.socket, how: int) -> None:
    # The thread may have ended with it just now.
    with contextlib.suppress(OSError):
        connection.shutdown(how)
