"""Connections that were just answered and whose next request is expected at once, for whichever thread is free.

A thread that waits for them by itself would wait for one: with eight connections eight threads work, each with a database session
whose caches push out those of the others. Here the thread that began to wait last is woken first, as Linux wakes those who wait at
one epoll(7), and the others go to rest.
"""

import select
import threading
import time

_ONE_REQUEST = select.EPOLLIN | select.EPOLLONESHOT


class Lingering:
    """At most so many; each is given to one thread, or taken back."""

    def __init__(self, most: int):
        self._most = most
        self._poll = select.epoll()
        # By file descriptor, longest here first: since when, by the monotonic clock.
        self._connections: dict[int, tuple[float, object]] = {}
        # For what has to be done with both.
        self._lock = threading.Lock()

    def add(self, conn) -> bool:
        """False if there are too many."""
        number = conn.sock.fileno()
        with self._lock:
            if len(self._connections) >= self._most:
                return False
            self._connections[number] = time.monotonic(), conn
            try:
                self._poll.modify(number, _ONE_REQUEST)
            except FileNotFoundError:  # for the first time
                self._poll.register(number, _ONE_REQUEST)
        return True

    def next(self, seconds: float):
        """The first on which something arrives, None if nothing does in time."""
        for number, _ in self._poll.poll(seconds, 1):
            with self._lock:
                _, conn = self._connections.pop(number, (0.0, None))
            return conn
        return None

    def take_back(self, seconds: float = 0.0) -> list:
        """Those that have been here for so long."""
        before, taken = time.monotonic() - seconds, []
        with self._lock:
            while self._connections:
                number, (since, conn) = next(iter(self._connections.items()))
                if since > before:
                    break
                del self._connections[number]
                self._poll.unregister(number)
                taken.append(conn)
        return taken
