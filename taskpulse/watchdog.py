"""Ends a worker's process that does not end, or does not go on, by itself.

What a process holds is freed with it: a relay's lock, a consumer's partitions. To end it at any instant loses nothing, as
a kill loses nothing: what is not committed is still in the outbox, or comes again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from taskpulse.worker import Stop

logger = logging.getLogger("taskpulse.watchdog")

# Seconds that a stop may take, less than the 25 that this service promises: it may wait for a PostgreSQL that answers nothing.
STOP_SECONDS = 18.0
_TICK = 0.5


class Watchdog:
    """`with Watchdog(stop, hangs):` looks after what the block does. `hangs()` says why the worker does not go on, or None. The
    exit status is 1."""

    def __init__(self, stop: Stop, hangs: Callable[[], str | None] = lambda: None, end: Callable[[int], None] = os._exit):
        self._stop_asked, self._hangs, self._end = stop, hangs, end
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()

    def _watch(self) -> None:
        stopping = None
        while not self._over.wait(_TICK):
            if self._stop_asked.requested:
                stopping = stopping or time.monotonic()
                if time.monotonic() - stopping < STOP_SECONDS:
                    continue
                reason = f"the stop has taken {STOP_SECONDS:.0f} s"
            elif (reason := self._hangs()) is None:
                continue
            logger.critical("%s: this process ends at once, and loses nothing by that", reason)
            self._end(1)
            return
