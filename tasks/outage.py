"""An outage is logged when it begins and when it ends, and waited for in between."""

import logging

from taskpulse.worker import Backoff

logger = logging.getLogger("taskpulse.relay")


class Outage:
    """One thing that may be out of order for a while: `what` names it in the log."""

    def __init__(self, what: str, first: float = 0.1, most: float = 2.0):
        self._what = what
        self._backoff = Backoff(first, most)
        # What was said last.
        self.reason = ""

    @property
    def present(self) -> bool:
        return self._backoff.failures > 0

    def failed(self, error: Exception) -> float:
        """Logs the first failure of a row of them; returns the seconds to wait (capped, jittered)."""
        self.reason = str(error).strip() or type(error).__name__
        if not self.present:
            logger.warning("%s failed, trying again until it works: %s", self._what, self.reason)
        return self._backoff.next()

    def over(self) -> None:
        if self.present:
            logger.info("%s works again after %d failures", self._what, self._backoff.failures)
        self._backoff.reset()
