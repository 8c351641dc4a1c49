"""What the writers saw: the promises that the audit log is held to."""

import threading
import uuid
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was acknowledged: the log must hold it. What the writer was not told is None."""

    subject: str
    version: int | None = None
    kind: str | None = None
    request_id: str | None = None


class Record:
    """Thread-safe. `requests` is how many entries an acknowledged request made, `doubtful` the requests without an
    answer, which may have been carried out and may not: at most so many entries."""

    def __init__(self):
        self._lock = threading.Lock()
        self.changes: list[Change] = []
        self.requests: dict[str, int] = {}
        self.doubtful: dict[str, int] = {}
        self.answers: Counter[str] = Counter()
        self.unexpected: list[str] = []

    @staticmethod
    def new_request() -> str:
        return f"chaos-{uuid.uuid4()}"

    def acknowledge(self, changes: list[Change], request_id: str | None = None, entries: int | None = None) -> None:
        """`entries`: exactly how many the request made, where that is known."""
        with self._lock:
            self.changes += changes
            if request_id is not None and entries is not None:
                self.requests[request_id] = entries

    def doubt(self, request_id: str, entries: int) -> None:
        with self._lock:
            self.doubtful[request_id] = entries

    def answer(self, name: str) -> None:
        with self._lock:
            self.answers[name] += 1

    def complain(self, what: str) -> None:
        with self._lock:
            self.unexpected.append(what)
