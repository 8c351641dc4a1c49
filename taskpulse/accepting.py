"""An even share of the connections for each process of the web role.

All processes wait at one socket, and a new connection is whose main thread is awake first. Clients that keep their connections keep
what they got by it: of eight, all were seen at one of two processes, while the other did nothing. SO_REUSEPORT has the kernel throw
dice instead, which is even for many clients and not for a few.
"""

import mmap
import time
from collections.abc import Iterable

from taskpulse.turn_taker import TurnTaker

# Processes that are counted; who comes later takes what comes.
_PLACES = 128
_NOBODY = 2**31 - 1
# Seconds for which a process that is ahead leaves a new connection to the others, and between two looks whether they took it. Their
# main threads may have to wait for Python, which changes threads after the first at the latest.
_COURTESY, _LOOK = 0.005, 0.0005


class Shares:
    """How many connections each process of one master has, in memory that they share; by a place that the master gives."""

    def __init__(self):
        self._counts = memoryview(mmap.mmap(-1, 4 * _PLACES)).cast("i")
        for place in range(_PLACES):
            self.leave(place)

    def give(self, taken: Iterable[int | None]) -> int | None:
        """A place for a process that begins; None if there is none."""
        free = sorted(set(range(_PLACES)) - set(taken))
        if not free:
            return None
        self.set(free[0], 0)
        return free[0]

    def set(self, place: int | None, connections: int) -> None:
        if place is not None:
            self._counts[place] = connections

    def leave(self, place: int | None) -> None:
        """Nobody is to wait for this one any more."""
        self.set(place, _NOBODY)

    def is_ahead(self, place: int | None) -> bool:
        """Whether another process has fewer connections."""
        return place is not None and self._counts[place] > min(self._counts)

    def of_others(self, place: int) -> bytes:
        """What changes when another process takes a connection or loses one."""
        return bytes(self._counts[:place]) + bytes(self._counts[place + 1 :])


class EvenShare(TurnTaker):
    """Accepts nothing for a moment while it is ahead of another process; no longer if that one took nothing: it may be stuck."""

    shares = Shares()
    # Given by the master before it forks.
    place: int | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Until when the next connections are left to the others, by the monotonic clock, and what those had who took none.
        self._courteous_until, self._in_vain = 0.0, b""

    def set_accept_enabled(self, enabled):
        super().set_accept_enabled(enabled and not self._courteous_until)

    def accept(self, listener):
        if self.shares.is_ahead(self.place) and (others := self.shares.of_others(self.place)) != self._in_vain:
            self._courteous_until, self._in_vain = time.monotonic() + _COURTESY, others
            self.set_accept_enabled(False)
            return
        super().accept(listener)
        self.shares.set(self.place, self.nr_conns)

    def wait_for_and_dispatch_events(self, timeout):
        super().wait_for_and_dispatch_events(min(timeout, _LOOK) if self._courteous_until else timeout)
        if self.alive:
            self.shares.set(self.place, self.nr_conns)
        else:
            self.shares.leave(self.place)
        if self._courteous_until and (
            time.monotonic() > self._courteous_until or self.shares.of_others(self.place) != self._in_vain
        ):
            self._courteous_until = 0.0
