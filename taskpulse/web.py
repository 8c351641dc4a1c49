"""The web role's worker: gunicorn's threads, as few of them at work as there is use for, a bounded queue before them, and an end to
what holds one too long."""

import socket
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from django.conf import settings

from taskpulse import drain
from taskpulse.admission import Arrived, look, refuse
from taskpulse.connections import has_read_ahead
from taskpulse.lingering import Lingering
from taskpulse.metrics import WEB_REFUSED
from taskpulse.pace import Pace
from taskpulse.processors import Room
from taskpulse.short_requests import ShortRequests, shut
from taskpulse.whole_requests import Request

# Seconds for which a thread waits for the next request of those that it and others answered. Longer than a busy client takes.
_LINGER = 0.002
# So many connections a thread linger, and so long if all who would serve them have something else to do: the main thread takes them
# back then, and a thread that rests takes their requests.
_LINGERING_A_THREAD, _LONGEST_LINGER = 4, 0.1
# Seconds after which a request is not counted: it waits for something else.
_LONG = 0.02
# Seconds without a refusal after which an overload is over.
_CALM = 5.0


class LingeringWorker(ShortRequests):
    """After an answer, a thread goes on to whichever lingering connection has a request first.

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
        # By thread that is not at rest: when its request began, and whose it is; None while it waits for one.
        self._at_work: dict[int, tuple[float, object] | None] = {}
        self._room = Room(self.cfg.threads)
        self._pace = Pace(self.cfg.threads, settings.WEB_QUEUE_MS / 1000)
        self._refused, self._refused_at = 0, 0.0

    def get_thread_pool(self) -> ThreadPoolExecutor:
        self._liveness, self._readiness = ThreadPoolExecutor(1, "liveness"), ThreadPoolExecutor(1, "readiness")
        self._lingering = Lingering(_LINGERING_A_THREAD * self.cfg.threads)
        return super().get_thread_pool()

    def handle(self, conn):
        """Serves its request, and others until there is no use in this thread."""
        thread = threading.get_ident()
        try:
            while conn is not None:
                self._at_work[thread] = time.monotonic(), conn
                self._serve(conn)
                conn = self._next(thread)
        finally:
            self._at_work.pop(thread, None)
            if not self._at_work:
                self._give_back()

    def _serve(self, conn) -> None:
        kept, began = False, time.monotonic()
        try:
            kept = super().handle(conn) is True
        finally:
            self._pace.took(time.monotonic() - began)
            lingers = kept and self.alive and not self.cfg.is_ssl and not has_read_ahead(conn) and self._lingering.add(conn)
            if not lingers:
                self.method_queue.defer(self._answered, conn, kept)

    def _keepalive_after(self, conn, keepalive):
        """As gunicorn's, which looks twice for what is left of a body, with a time limit that it sets and takes back; most were
        read to their end, and nothing of the request is to be kept."""
        body = conn.parser.mesg.body
        if keepalive and not body.failed and getattr(body.reader, "length", None) == 0:
            conn.parser.mesg = None
            return True
        return super()._keepalive_after(conn, keepalive)

    def _next(self, thread: int):
        """The connection of the next request, None if this thread is to rest."""
        self._at_work[thread] = None
        while self._is_wanted():
            conn = self._lingering.next(_LINGER)
            if conn is None:
                del self._at_work[thread]
                if None not in self._at_work.values():
                    self._give_back()
                return None
            if look(conn.sock)[0] is Arrived.REQUEST:
                return conn
            self.method_queue.defer(self.enqueue_req, conn)
        return None

    def _is_wanted(self) -> bool:
        """Unless somebody waits for a thread and all are at work, or enough are."""
        now, at_work = time.monotonic(), list(self._at_work.values())
        if not self.alive or (len(at_work) >= self.cfg.threads and not self.tpool._work_queue.empty()):
            return False
        return sum(request is None or now - request[0] < _LONG for request in at_work) <= self._room.most

    def _give_back(self) -> None:
        """To the main thread, since nobody waits for their requests any more."""
        for conn in self._lingering.take_back():
            self.method_queue.defer(self.keep, conn)

    def send_rest(self, conn, left: bytes, kept: bool) -> None:
        self._submit(self.tpool, partial(self._send_in_thread, left, kept), conn, self.finish_request)

    def _send_in_thread(self, left: bytes, kept: bool, conn) -> None:
        thread = threading.get_ident()
        self._at_work[thread] = time.monotonic(), conn
        try:
            conn.sock.setblocking(True)
            conn.sock.sendall(left)
        except OSError:
            kept = False
        finally:
            del self._at_work[thread]
            self.method_queue.defer(self._answered, conn, kept)

    def admit(self, conn, arrived: Arrived, head: bytes = b"", length: int = 0) -> None:
        if arrived is Arrived.SHORT and self.turns_are_late():
            self._refuse(conn)
        elif arrived is not Arrived.REQUEST and (request := self.requests.read(conn, head, length)):
            self._admit_whole(conn, arrived, request)
        elif self._is_overloaded():
            self._refuse(conn)
        else:
            self._waiting.append((self._submit(self.tpool, self.handle, conn, self.finish_request), time.monotonic()))

    def _admit_whole(self, conn, arrived: Arrived, request: Request) -> None:
        if arrived is Arrived.SHORT:
            self.turns.submit((conn, request))
        else:
            pool = self._liveness if arrived is Arrived.LIVENESS else self._readiness
            self._submit(pool, partial(self.serve_whole, request), conn, self.finish_probe)

    def _submit(self, pool: ThreadPoolExecutor, function, conn, finish) -> Future:
        future = pool.submit(function, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(finish, conn, done))
        return future

    def _is_overloaded(self) -> bool:
        """Whether a request that comes now would wait too long for a thread."""
        while self._waiting and (self._waiting[0][0].running() or self._waiting[0][0].done()):
            self._waiting.popleft()
        return self._pace.is_too_long(self._waiting)

    def _shed(self) -> None:
        """Refuses what has waited twice as long as it should: the threads, or the turns, became slower meanwhile."""
        while self._is_overloaded() and self._pace.is_overdue(self._waiting):
            self._waiting.popleft()[0].cancel()  # finish_request() comes, unless a thread was faster
        for conn in self.overdue():
            self._refuse(conn)

    def _refuse(self, conn) -> None:
        if not self._refused:
            waiting = len(self._waiting) + len(self.turns.line)
            self.log.warning("overload: %d requests wait, more are refused until fewer do", waiting)
        self._refused += 1
        self._refused_at = time.monotonic()
        WEB_REFUSED.inc()
        if refuse(conn.sock, may_keep=self.alive and not has_read_ahead(conn)):
            self.keep(conn)
        else:
            self.close(conn)

    def finish_request(self, conn, fs):
        """A thread rests again; `conn` is the one it began with."""
        if fs.cancelled():
            self._refuse(conn)
        elif error := fs.exception():
            self.log.error("a thread that served requests failed", exc_info=error)

    def finish_probe(self, conn, fs):
        if fs.exception() is None:
            left, kept = fs.result()
            self.deliver(conn, bytearray(left), kept)
        else:
            self.close(conn)

    def wait_for_and_dispatch_events(self, timeout):
        is_busy = self._at_work or self._waiting or self.turns.line
        super().wait_for_and_dispatch_events(min(timeout, _LONGEST_LINGER / 2) if is_busy else timeout)
        if self._waiting or self.turns.line:
            self._shed()
        for conn in self._lingering.take_back(_LONGEST_LINGER if self.alive else 0.0):
            self.keep(conn)

    def tick(self, now: float) -> None:
        super().tick(now)
        if drain.requested():
            self.max_keepalived = 0  # each answer from now on says `Connection: close`
        if self._refused and now - self._refused_at > _CALM:
            self.log.info("the overload is over, %d requests were refused", self._refused)
            self._refused = 0
        self._room.look()
        for began, conn in filter(None, list(self._at_work.values())):
            if now - began > settings.WEB_REQUEST_SECONDS:
                self.end(conn)
            elif now - began > settings.WEB_BODY_SECONDS:
                shut(conn.sock, socket.SHUT_RD)
