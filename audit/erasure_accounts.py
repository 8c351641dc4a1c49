"""The events that account for erased entries, for whoever checks these elsewhere.

A marker alone proves nothing: whoever hands entries on could put one in the place of any payload.
"""

from collections.abc import Iterator
from uuid import UUID

import orjson
from django.db import connection

from audit import coverage, redaction
from audit.verification import entries

_WHERE = """
SELECT e.id::text, (SELECT max(seq) FROM task_audit_log l WHERE l.event_id = e.id),
  EXISTS (SELECT FROM tasks_outbox o WHERE o.event_id = e.id)
FROM unnest(%s::text[]::uuid[]) e (id)
"""
# As PostgreSQL writes a marker.
_BEGINNING = f'{{"{redaction.MARKER}"'


class Erasures:
    """Finds each event once. `pending` are those that are there and have no proof yet: in the outbox, or above the newest
    checkpoint."""

    def __init__(self):
        self.pending: set[str] = set()
        self._known: set[str] = set()

    def accounts(self, rows: list[tuple]) -> Iterator[dict]:
        """Of rows of entries.SELECT: the entries that account for those among them that are erased, each with its proof, unless
        one was told before. Raises coverage.CannotProve."""
        new = {named for row in rows if (named := _named(row[entries.EVENT_DATA]))} - self._known
        if not new:
            return
        self._known |= new
        with connection.cursor() as cursor:
            cursor.execute(_WHERE, [sorted(new)])
            found = cursor.fetchall()
        for event_id, seq, waits in found:
            document = None if seq is None else coverage.document(seq)
            if document is not None:
                yield document
            elif waits or seq is not None:
                self.pending.add(event_id)


def _named(text: str) -> str | None:
    """The id of the event that a marker refers to, in its one spelling; None for what is no marker."""
    if not text.startswith(_BEGINNING):
        return None
    named = redaction.accounted_by(orjson.loads(text))
    try:
        return named if named is not None and str(UUID(named)) == named else None
    except ValueError:
        return None
