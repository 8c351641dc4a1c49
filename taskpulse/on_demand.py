"""Something slow that is read when somebody asks, so that neither an idle role nor a dependency that hangs costs anything."""

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class Look(NamedTuple, Generic[Value]):
    """`value` is None and `error` says why, if there was no answer."""

    value: Value | None
    error: Exception | None


class OnDemand(Generic[Value]):
    """`read()` runs in a thread of its own, one call at a time. Who asks waits for it `patience` seconds at most; who asks at
    the same time, or within FRESH seconds, shares the answer; while there is no new one, the last serves for KEPT seconds."""

    FRESH, KEPT = 1.0, 30.0

    def __init__(self, name: str, read: Callable[[], Value]):
        self._name, self._read = name, read
        self._changed = threading.Condition()
        self._latest: Look[Value] = Look(None, None)
        self._read_at = float("-inf")
        # Since when it has been read, if it is just now.
        self._began: float | None = None

    def look(self, patience: float) -> Look[Value]:
        """The answer; where there is none, a TimeoutError in it says since when."""
        with self._changed:
            if time.monotonic() - self._read_at > self.FRESH:
                if self._began is None:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()  # RuntimeError where there is none
                    self._began = time.monotonic()
                answered = self._changed.wait_for(lambda: self._began is None, patience)
                if not answered and self._is_outdated():
                    return Look(None, TimeoutError(f"no answer after {time.monotonic() - self._began:.1f} s"))
            return self._latest

    def _is_outdated(self) -> bool:
        """A good answer is, after a while; what was wrong last is the best guess at what is wrong now."""
        return self._latest.error is None and time.monotonic() - self._read_at > self.KEPT

    def _run(self) -> None:
        try:
            found = Look(self._read(), None)
        except Exception as error:
            found = Look(None, error)
        with self._changed:
            self._latest, self._read_at, self._began = found, time.monotonic(), None
            self._changed.notify_all()
