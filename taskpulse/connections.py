"""The connections that no thread serves: gunicorn's threaded worker, whose main thread never waits for a client.

gunicorn gives a thread to each new connection before anything has arrived on it, reads the head of a request in it,
however slowly that comes, and closes a connection in its main thread, where it waits for the client to close too. Each
of these lets a few slow clients stop everybody.
"""

import contextlib
import selectors
import socket
import time
from functools import partial

from taskpulse.accepting import EvenShare
from taskpulse.admission import Arrived, give_up, look, wake_at

# Seconds: for a request to arrive as far as `look` waits for it, from the connection's begin or its first byte; for a client
# to take an answer that waits at no thread's expense, and to close after our last one; between two looks at the time.
ARRIVAL_SECONDS, DELIVERY_SECONDS, CLOSE_SECONDS, TICK = 5.0, 2.0, 2.0, 0.5


class Line:
    """The part of a deque that gunicorn uses, with removal in constant time: thousands of connections stand in it."""

    def __init__(self):
        self._connections = {}

    def append(self, connection) -> None:
        self._connections[connection] = None

    def remove(self, connection) -> None:
        del self._connections[connection]

    def popleft(self):
        first = self[0]
        self.remove(first)
        return first

    def __getitem__(self, index: int):
        return next(iter(self._connections))

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self):
        return iter(self._connections)


class ConnectionKeeper(EvenShare):
    """Waits for requests to arrive and hands each connection over to `admit`, sends and closes without blocking, and makes
    room for a new connection where there are too many. All of it runs in the main thread."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.keepalived_conns, self.pending_conns, self._delivering, self._closing = Line(), Line(), Line(), Line()
        self._next_tick = 0.0

    def admit(self, conn, arrived: Arrived, head: bytes = b"", length: int = 0) -> None:
        """A request (or a probe) whose head has arrived; what `look` said of it."""
        raise NotImplementedError

    def accept(self, listener):
        if self.nr_conns >= self.worker_connections - 1:
            self._make_room()
        super().accept(listener)

    def enqueue_req(self, conn):
        """A connection that is new, or on which something has arrived."""
        conn.data_ready = True
        if self.cfg.is_ssl or has_read_ahead(conn):
            self.admit(conn, Arrived.REQUEST)
            return
        arrived, head, length = look(conn.sock)
        if arrived is Arrived.END:
            self._forget(conn)
        elif arrived is Arrived.NOTHING or arrived is Arrived.PART:
            self._await(conn, length)
        else:
            self.admit(conn, arrived, head, length)

    def _answered(self, conn, kept: bool) -> None:
        if not kept:
            self.close(conn)
        elif has_read_ahead(conn):
            self.enqueue_req(conn)
        else:
            self.keep(conn)

    def keep(self, conn) -> None:
        """Until the client's next request, for a while. A stopping worker answers that one with `Connection: close`."""
        if conn.sock.gettimeout() != 0:
            conn.sock.setblocking(False)
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + CLOSE_SECONDS)
        self.keepalived_conns.append(conn)
        self.turns.expect(conn.sock.fileno(), partial(self.on_client_socket_readable, conn))

    def on_client_socket_readable(self, conn, _):
        self.keepalived_conns.remove(conn)
        self.enqueue_req(conn)

    def murder_keepalived(self, force=False):
        """gunicorn's name: ends those whose next request did not come in time, or all."""
        now = time.monotonic()
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= now):
            self._rest_no_more(self.keepalived_conns.popleft())

    def _rest_no_more(self, conn) -> None:
        self.turns.forget(conn.sock.fileno())
        self._forget(conn)

    def deliver(self, conn, answer: bytearray, kept: bool) -> None:
        """Sends as the client takes it, for DELIVERY_SECONDS at most."""
        conn.sock.setblocking(False)
        if self._send(conn, answer):
            self._answered(conn, kept)
            return
        conn.timeout = time.monotonic() + DELIVERY_SECONDS
        self._delivering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._on_delivering_socket_writable, conn, answer, kept))

    def _on_delivering_socket_writable(self, conn, answer: bytearray, kept: bool, client):
        if self._send(conn, answer):
            self._delivering.remove(conn)
            self.poller.unregister(client)
            self._answered(conn, kept)

    def _send(self, conn, answer: bytearray) -> bool:
        """Whether nothing is left to be sent. What fails is found by the close that follows."""
        if not answer:
            return True
        try:
            del answer[: conn.sock.send(answer)]
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not answer

    def _await(self, conn, wanted: int) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + ARRIVAL_SECONDS
        if wanted > 1:
            wake_at(conn.sock, wanted)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn, client):
        arrived, _, wanted = look(conn.sock)
        if arrived is Arrived.PART:
            wake_at(conn.sock, wanted)  # its time runs on
        elif arrived is not Arrived.NOTHING:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            wake_at(conn.sock, 1)
            self.enqueue_req(conn)

    def murder_pending(self):
        """gunicorn's name: ends those whose request did not arrive in time."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            conn = self.pending_conns.popleft()
            self.poller.unregister(conn.sock)
            if look(conn.sock)[0] is Arrived.PART:
                give_up(conn.sock)
            self.close(conn)

    def close(self, conn) -> None:
        """Says that nothing more comes and waits for the client to do the same: a close with unread input would destroy
        an answer on its way (RFC 9112 §9.6). gunicorn waits so in its main thread, where everybody waits with it."""
        if self.cfg.is_ssl:
            self._forget(conn, graceful=True)
            return
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._forget(conn)
            return
        conn.timeout = time.monotonic() + CLOSE_SECONDS
        self._closing.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_closing_socket_readable, conn))

    def _on_closing_socket_readable(self, conn, client):
        with contextlib.suppress(OSError):
            if client.recv(65_536):
                return
        self._closing.remove(conn)
        self.poller.unregister(client)
        self._forget(conn)

    def _forget(self, conn, graceful: bool = False) -> None:
        self.nr_conns -= 1
        conn.close(graceful)

    def _make_room(self) -> None:
        """For a new connection, which may be a probe: the longest without a request goes."""
        if line := next((line for line in (self._closing, self._delivering, self.pending_conns) if line), None):
            conn = line.popleft()
            self.poller.unregister(conn.sock)
            self._forget(conn)
        elif self.keepalived_conns:
            self._rest_no_more(self.keepalived_conns.popleft())

    def wait_for_and_dispatch_events(self, timeout):
        super().wait_for_and_dispatch_events(timeout)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self.tick(now)

    def tick(self, now: float) -> None:
        """Every half a second, or a second when nothing happens."""
        for line in (self._delivering, self._closing):
            while line and line[0].timeout <= now:
                conn = line.popleft()
                self.poller.unregister(conn.sock)
                self._forget(conn)


def has_read_ahead(conn) -> bool:
    """Whether bytes of the next request were read together with the last one."""
    return conn.parser is not None and bool(conn.parser.unreader.buf.getvalue())
