"""Which of a batch are true events, and what the others are: the look-ups of the recorder, one statement each."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection
from psycopg.pq import Format

from audit import binary_arrays
from audit.binary_arrays import ByteaArray, UuidArray
from audit.dead_letters import Refused
from tasks.events import SOURCE, Malformed


class Matched(NamedTuple):
    """The outbox row of a message, with its digest equal to that of the message's bytes: a row of _TAKE."""

    subject_type: str
    subject_id: str
    version: int | None
    task_id: UUID | None
    held: bool
    taken: bool
    # Which of the messages, from 1, and with the first of them the time.
    number: int = 0
    moment: datetime | None = None


@dataclass(slots=True)
class SortedOut:
    refused: list[Refused] = field(default_factory=list)
    repeated: int = 0
    reordered: int = 0


# A row is taken unless it is held or an earlier version of its subject waits that this batch does not bring. What waits of a
# subject has no gap, since versions have none and the earliest goes first: so it is the version just before some row that is
# looked for, one entry of the index for each. To look for any earlier one would walk over all that was recorded of a busy task
# while a dump keeps its dead rows (`make bench-outbox`). Id AND digest must match: a forgery that bears a true id must not
# remove the true row. After a VACUUM of the empty outbox PostgreSQL takes it, and `matched`, for a single row, and a join would
# loop over all pairs of rows, for minutes: so each look-up is one by index (LATERAL with OFFSET 0, which is not flattened, and
# the array), and `IN` and `NOT IN` are hashed.
_TAKE = """
WITH wire AS MATERIALIZED (
  SELECT * FROM unnest(%s::uuid[], %s::bytea[]) WITH ORDINALITY AS w (event_id, digest, number)
), matched AS MATERIALIZED (
  SELECT wire.number, o.id, o.subject_type, o.subject_id, o.version, o.task_id, o.held_at IS NOT NULL AS held
  FROM wire CROSS JOIN LATERAL (
    SELECT o.id, o.subject_type, o.subject_id, o.version, o.task_id, o.held_at FROM tasks_outbox o
    WHERE o.event_id = wire.event_id AND o.digest = wire.digest OFFSET 0
  ) o
), first_missing AS MATERIALIZED (
  SELECT s.subject_type, s.subject_id, min(s.version) AS version
  FROM (SELECT subject_type, subject_id, version FROM matched WHERE NOT held AND version > 1) s
  CROSS JOIN LATERAL (
    SELECT e.id FROM tasks_outbox e
    WHERE e.subject_type = s.subject_type AND e.subject_id = s.subject_id AND e.version = s.version - 1 OFFSET 0
  ) e
  WHERE e.id NOT IN (SELECT m.id FROM matched m WHERE NOT m.held)
  GROUP BY 1, 2
), taken AS (
  DELETE FROM tasks_outbox o WHERE o.id = ANY (ARRAY(
    SELECT m.id FROM matched m LEFT JOIN first_missing f USING (subject_type, subject_id)
    WHERE NOT m.held AND (f.version IS NULL OR m.version IS NULL OR m.version < f.version)
  ))
  RETURNING o.id
)
SELECT m.subject_type, m.subject_id, m.version, m.task_id, m.held, m.id IN (SELECT t.id FROM taken t), m.number,
  CASE WHEN m.number = (SELECT min(number) FROM matched) THEN clock_timestamp() END
FROM matched m
"""

# From the earliest waiting version on, a subject's rows go out again, in order. A message can be faster than the relay's
# mark: the attempt is counted here then, from which the relay knows that its mark is void (tasks/relay_queue.py). LATERAL with
# OFFSET 0 and the array make each look-up one by index, whatever the statistics say.
_SEND_AGAIN = """
UPDATE tasks_outbox SET published_at = NULL, attempts = attempts + (published_at IS NULL)::int WHERE id = ANY (ARRAY(
  SELECT e.id FROM (SELECT DISTINCT subject_type, subject_id FROM tasks_outbox WHERE event_id = ANY (%(ids)s::uuid[])) s
  CROSS JOIN LATERAL (
    SELECT id FROM tasks_outbox o WHERE o.subject_type = s.subject_type AND o.subject_id = s.subject_id
      AND o.held_at IS NULL AND (o.published_at IS NOT NULL OR o.event_id = ANY (%(ids)s::uuid[])) OFFSET 0
  ) e
))
"""

_KNOWN = """
SELECT event_id, digest, true FROM task_audit_log WHERE event_id = ANY(%s::uuid[])
UNION ALL SELECT event_id, digest, false FROM tasks_outbox WHERE event_id = ANY(%s::uuid[])
"""


def take_true(received) -> datetime | None:
    """Deletes the outbox rows of the true events whose turn it is, marks their messages `taken` (a second copy in the
    batch is not), and returns the database's time."""
    if not received:
        return None
    first = {}
    for item in received:
        first.setdefault(item.digest, item)
    sent = list(first.values())
    now = None
    with connection.cursor() as cursor:
        cursor.cursor.format = Format.BINARY  # loading the rows' text would cost as much as the statement
        binary_arrays.allow(cursor)
        cursor.execute(_TAKE, [UuidArray.of([item.key for item in sent]), ByteaArray.of([item.digest for item in sent])])
        for row in map(Matched._make, cursor.fetchall()):
            item = sent[row.number - 1]
            item.row, item.taken = row, row.taken
            now = row.moment or now
    if len(sent) < len(received):
        for item in received:
            item.row = first[item.digest].row
    return now and now.astimezone(UTC)


def sort_out(others) -> SortedOut:
    """Repeats are absorbed, early ones sent back to the relay, all else becomes a dead letter."""
    result = SortedOut()
    if not others:
        return result
    early = [item for item in others if item.row is not None and not item.row.held and not item.row.taken]
    unmatched = [item for item in others if item.row is None]
    result.repeated = len(others) - len(early) - len(unmatched)
    result.reordered = len(early)
    unmatched = [item for item in unmatched if _is_event(item, result.refused)]
    with connection.cursor() as cursor:
        binary_arrays.allow(cursor)
        if early:
            cursor.execute(_SEND_AGAIN, {"ids": UuidArray.of([item.key for item in early])})
        if not unmatched:
            return result
        ids = UuidArray.of({item.event.id.bytes for item in unmatched})
        cursor.execute(_KNOWN, [ids, ids])
        known: dict[UUID, list[tuple[bytes, bool]]] = {}
        for event_id, digest, recorded in cursor:
            known.setdefault(event_id, []).append((bytes(digest), recorded))
        archived_until = _archived_until(cursor) if len(known) < len({item.event.id for item in unmatched}) else None
    for item in unmatched:
        found = known.get(item.event.id, [])
        if (item.digest, True) in found:
            result.repeated += 1
        elif found:
            result.refused.append(Refused(item.message, "altered", f"event {item.event.id} has other bytes"))
        elif item.event.source != SOURCE:
            result.refused.append(Refused(item.message, "foreign", f"source is not {SOURCE}"))
        elif archived_until is not None and item.event.time <= archived_until:
            result.repeated += 1
        else:
            result.refused.append(Refused(item.message, "forged", f"no change made event {item.event.id}"))
    return result


def _is_event(item, refused: list[Refused]) -> bool:
    try:
        item.event  # noqa: B018 (parses it)
    except Malformed as error:
        refused.append(Refused(item.message, "malformed", str(error)))
        return False
    return True


def _archived_until(cursor) -> datetime | None:
    """The time of the latest change whose entry was archived; None while the log is whole. No id of an archived event is
    kept here: a forgery that is as old passes for a repeat of one, which is counted, and recorded by nobody."""
    cursor.execute("SELECT max(events_until) FROM audit_archive")
    return cursor.fetchone()[0]
