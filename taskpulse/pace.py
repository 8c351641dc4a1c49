"""How long who waits now will wait: by how many are before, and what the last ones took."""

from collections.abc import Sequence
from time import monotonic

# The share of a new measurement in the average time of a request, and its first value in seconds.
_WEIGHT, _FIRST_SECONDS = 1 / 16, 0.005


class Pace:
    """Of so many requests that are served at once."""

    def __init__(self, at_once: int, longest_wait: float):
        self._at_once, self._longest_wait = at_once, longest_wait
        self._seconds = _FIRST_SECONDS

    def took(self, seconds: float) -> None:
        """A long one (an export, a wait for the log) is rare and says nothing of the next: it counts as much as a wait may."""
        self._seconds += (min(seconds, self._longest_wait) - self._seconds) * _WEIGHT

    def is_too_long(self, waiting: Sequence[tuple[object, float]]) -> bool:
        """Whether one that comes after these would wait too long; or whether the first, since when is said by the monotonic clock,
        does so already, since those that are served are stuck."""
        if not waiting:
            return False
        return len(waiting) * self._seconds / self._at_once > self._longest_wait or monotonic() - waiting[0][1] > self._longest_wait

    def is_overdue(self, waiting: Sequence[tuple[object, float]]) -> bool:
        """Whether the first waits twice as long as it should: those that are served became slower meanwhile."""
        return monotonic() - waiting[0][1] > 2 * self._longest_wait
