"""A worker beside the role's own, in a thread: neither waits for the other."""

import logging
import threading

from django.db import connection

from taskpulse.worker import Backoff, Stop

logger = logging.getLogger("taskpulse.companion")


class Companion(threading.Thread):
    """Runs a worker (`step()`, `pause`, `close()`) until the stop is requested.

    What a step raises is the worker's own defect: logged with its trace, and tried again, ever more slowly; the role
    that it stands beside goes on.
    """

    # Seconds that a stop waits for it: as long as a step may take, all in all less than a stop may.
    PATIENCE = 6.0

    def __init__(self, name: str, worker, stop: Stop):
        super().__init__(name=name, daemon=True)
        self._worker, self._stop_asked = worker, stop
        # What its last step failed with.
        self._failure: str | None = None

    def trouble(self) -> str | None:
        """What a person should know of it. For another thread."""
        if self.ident is not None and not self.is_alive() and not self._stop_asked.requested:
            return "it has ended"
        return self._failure and f"it fails, and is tried again ({self._failure}): the log says at what"

    def run(self) -> None:
        backoff = Backoff(1.0, 60.0)
        try:
            while not self._stop_asked.requested:
                try:
                    more = self._worker.step()
                except Exception as error:
                    logger.exception("%s failed", self.name)
                    self._failure = type(error).__name__
                    connection.close()
                    self._stop_asked.sleep(backoff.next())
                    continue
                backoff.reset()
                self._failure = None
                if not more:
                    self._stop_asked.sleep(self._worker.pause)
        finally:
            self._worker.close()
            connection.close()
