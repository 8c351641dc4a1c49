"""A change whose event is written before the time of its row is known, so that row, event and commit are one round trip.

What PostgreSQL decides of a locked or a new row can be foretold, but for the time. In its place the event bears MARK, which
PostgreSQL replaces by the row's `updated_at` as it inserts the event (tasks/outbox.py); the answer's is replaced after the commit.
Where the row is not as was foretold, the event has no payload, which is refused, and the transaction with it.
"""

from contextvars import ContextVar
from datetime import datetime

from django.db import connections
from django.http import HttpResponse

from tasks.events import MARK, rfc3339


class Foretelling:
    """A block around a transaction in which one change may be foretold, the first; others are made as always."""

    # The time of the row whose change was foretold.
    moment: datetime | None = None

    def __init__(self, may: bool = True):
        self._may = may
        self.was_used = False

    def __enter__(self) -> "Foretelling":
        self._token = _current.set(self)
        return self

    def __exit__(self, *_) -> None:
        _current.reset(self._token)

    def take(self) -> bool:
        """Whether the change that comes now is the one."""
        taken = self._may
        self._may = False
        self.was_used = self.was_used or taken
        return taken

    def fill(self, response: HttpResponse) -> None:
        """Writes the time into an answer, after the commit."""
        if self.moment is not None:
            response.content = response.content.replace(MARK, rfc3339(self.moment).encode())


_current: ContextVar[Foretelling | None] = ContextVar("taskpulse_foretelling", default=None)


def of(row, before: dict | None, read_back, using: str) -> tuple:
    """What is told of an audited row's fields `read_back`, and what takes their true values, given the rows of its statement; None
    twice where this change is not foretold."""
    foretelling = _current.get()
    told = row.foretell(before) if foretelling is not None and connections[using].may_wait else None
    if told is None or not foretelling.take():
        return None, None

    def then(rows) -> None:
        for values in rows:  # one; where there is none, the event that follows is refused
            row.take_decided({field.attname: value for field, value in zip(read_back, values, strict=True)})
            foretelling.moment = row.updated_at

    return tuple([told[field.attname] for field in read_back]), then
