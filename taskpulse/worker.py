"""What the long-running roles share: stopping, and waiting between tries."""

import os
import random
import signal
import time

import psycopg
from django.db import InterfaceError, InternalError, OperationalError

# PostgreSQL is away, or ended the session or the transaction: what may go well the next time.
DATABASE_FAULTS = (OperationalError, InterfaceError, InternalError, psycopg.OperationalError)


class CannotContinue(Exception):
    """The role must stop until a person has looked; the message says at what. Its exit code is not 0."""


class Stop:
    """A plain flag that SIGTERM and SIGINT set; a second signal ends the process at once.

    The handler does nothing else: the worker finishes the batch in hand and looks at `requested` between batches.
    """

    def __init__(self):
        self.requested = False

    def listen(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number, frame) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True

    def sleep(self, seconds: float) -> None:
        """Waits, in slices of at most a quarter of a second, until the time is over or a stop is requested."""
        end = time.monotonic() + seconds
        while not self.requested and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, 0.25))


class Backoff:
    """Capped exponential waiting in seconds; each wait is random, from half of its ceiling to all. `reset()` after a success."""

    def __init__(self, first: float = 0.1, most: float = 5.0):
        self._first, self._most = first, most
        self.failures = 0

    def next(self) -> float:
        ceiling = min(self._most, self._first * 2 ** min(self.failures, 16))
        self.failures += 1
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 (spreading load, not a secret)

    def reset(self) -> None:
        self.failures = 0
