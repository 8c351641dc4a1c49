"""Short requests that take turns in one thread: while one waits for PostgreSQL, another goes on.

Threads that wait hand Python's lock to each other, and wake each other up for it, at each wait of each request. A turn is a
greenlet: a stack of its own in the thread that has them all. It is left where it waits by `Turn.wait` or `elsewhere`, and nowhere
else: what is served so must wait for nothing but PostgreSQL, neither for a client nor for a lock of Python's.
"""

import select
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from time import monotonic, sleep

from greenlet import getcurrent, greenlet
from psycopg.waiting import Ready, Wait

# Seconds after which the caller looks after what else there is, though something happens all the time; and how much is taken up
# at once.
_ROUND, _AT_ONCE = 0.02, 64
_EVENTS = {
    Wait.R: select.EPOLLIN | select.EPOLLONESHOT,
    Wait.W: select.EPOLLOUT | select.EPOLLONESHOT,
    Wait.RW: select.EPOLLIN | select.EPOLLOUT | select.EPOLLONESHOT,
}
# All else (its end, an error) is for the next call to find.
_READY = {select.EPOLLIN: Ready.R, select.EPOLLOUT: Ready.W}


class Turn(greenlet):
    """Serves one job after the other."""

    def __init__(self, turns: "Turns"):
        super().__init__()
        self.turns = turns
        # Its attributes of `Turns.own`, while others go on.
        self.own: dict = {}
        # While it waits: which file descriptor for, and until when by the monotonic clock.
        self.waits_for: tuple[int, float] | None = None

    def run(self, job):
        while True:
            job = self.parent.switch(self.turns.serve(job))

    def wait(self, number: int, generator: Generator[Wait, Ready, object], seconds: float):
        """psycopg's `Connection.wait`, for the session with this file descriptor. Raises TimeoutError after so many seconds."""
        try:
            wanted, until = next(generator), monotonic() + seconds
            while True:
                self.waits_for = number, until
                self.turns.expect(number, partial(self.turns.resume, self), wanted)
                try:
                    ready = self.parent.switch(None)
                finally:
                    self.waits_for = None
                wanted = generator.send(ready)
        except StopIteration as end:
            return end.value

    def elsewhere(self, function: Callable, *args):
        future = self.turns.threads.submit(copy_context().run, function, *args)
        future.add_done_callback(lambda _: self.turns.defer(self.turns.resume, self))
        self.parent.switch(None)
        return future.result()


class Turns:
    """Of the thread that makes it, which is also the one that calls `look`."""

    def __init__(self, most: int, serve: Callable[[object], tuple], finish: Callable, defer: Callable):
        """A turn calls `serve(job)` and `finish(*what it returned)` is called outside of it; neither may raise. `defer` calls
        a function with arguments in this thread."""
        self.serve, self.finish, self.defer = serve, finish, defer
        self.own = PerTurn()
        # What waits for a turn, oldest first, since when by the monotonic clock.
        self.line: deque[tuple[object, float]] = deque()
        self.threads = ThreadPoolExecutor(most, "elsewhere")
        self._all = [Turn(self) for _ in range(most)]
        # Last is the one that was at work last: few sessions are used where few are enough.
        self._free = self._all.copy()
        self._poll = select.epoll()
        self._expected: dict[int, Callable[[Ready], object]] = {}

    def expect(self, number: int, then: Callable[[Ready], object], wanted: Wait = Wait.R) -> None:
        """Calls `then` once, when there is something to read from this file descriptor, or to be written."""
        self._expected[number] = then
        try:
            self._poll.modify(number, _EVENTS[wanted])
        except FileNotFoundError:  # for the first time, or another file has the number now
            self._poll.register(number, _EVENTS[wanted])

    def forget(self, number: int) -> None:
        """Nobody expects anything from it any more."""
        self._expected.pop(number, None)

    def submit(self, job) -> None:
        self.line.append((job, monotonic()))

    def go_on_without_one(self) -> bool:
        """Whether there is another to go on when the one that is at work waits."""
        return bool(self.line) or len(self._free) < len(self._all) - 1

    def look(self, seconds: float) -> None:
        """Takes up what happens, for a while once something does; waits for so long at most."""
        until = monotonic() + min(seconds, _ROUND)
        self._take_up(seconds)
        while (left := until - monotonic()) > 0:
            self._take_up(left)

    def _take_up(self, seconds: float) -> None:
        for number, events in self._poll.poll(seconds, _AT_ONCE):
            if (then := self._expected.pop(number, None)) is not None:
                then(_READY.get(events, Ready.RW))
        while self.line and self._free:
            self.resume(self._free.pop(), self.line.popleft()[0])

    def resume(self, turn: Turn, value=None) -> None:
        self._go_on(turn, turn.switch, value)

    def _go_on(self, turn: Turn, how: Callable, value) -> None:
        """Until it waits, or its job is done."""
        outside = self.own.exchange(turn.own)
        done = how(value)
        turn.own = self.own.exchange(outside)
        if done is not None:
            self._free.append(turn)
            self.finish(*done)

    def end_waits(self, now: float) -> None:
        """Of those that wait for too long: PostgreSQL answers nothing."""
        for turn in self._all:
            if turn.waits_for is not None and turn.waits_for[1] < now:
                self.forget(turn.waits_for[0])
                self._go_on(turn, turn.throw, TimeoutError("no answer in time"))


class PerTurn(threading.local):
    """Attributes that each turn has of its own, and each thread that has no turns: Django keeps its connections by thread. They are
    exchanged when a turn goes on and when it is left: they are asked for ten times in between."""

    def exchange(self, others: dict) -> dict:
        """Takes these attributes for the present ones, which it returns."""
        present = vars(self)
        left = present.copy()
        present.clear()
        present.update(others)
        return left


def current() -> Turn | None:
    found = getcurrent()
    return found if isinstance(found, Turn) else None


def elsewhere(function: Callable, *args):
    """What it returns or raises. In a turn it is called in another thread, and other turns go on: it waits for something else
    than what PostgreSQL answers."""
    turn = current()
    return function(*args) if turn is None else turn.elsewhere(function, *args)


def others_go_on() -> bool:
    """Whether this thread has something else to do while the present turn waits."""
    turn = current()
    return turn is not None and turn.turns.go_on_without_one()


def pause(seconds: float) -> None:
    elsewhere(sleep, seconds)
