"""The recorder: the handler `audit` of `consume_events`. It writes true events into the log, each once, in order.

It trusts nothing on the wire. An event is true when its outbox row is there with the same id and the same SHA-256;
the entry is inserted and the row deleted in one transaction, under the lock of the log's head, so an event is
recorded exactly once whatever is repeated or killed. Order within a subject is this module's promise, not Kafka's:
an event whose earlier version still waits in the outbox is sent back to the relay.
"""

import hashlib
import logging
import time
from dataclasses import dataclass
from uuid import UUID

from confluent_kafka import Message
from django.conf import settings
from django.db import DataError, IntegrityError, InterfaceError, InternalError, OperationalError, connection, transaction

from audit import dead_letters, ledger, reconcile
from taskpulse import logs, tracing
from taskpulse.metrics import COMMIT_TO_ENTRY, HELD, RECORDED, REORDERED, REPEATED
from taskpulse.worker import CannotContinue
from tasks import context, events

logger = logging.getLogger("taskpulse.recorder")

# SQLSTATE classes that speak of the data, never of the connection or the server: data exception, integrity
# constraint, check option, program limit (PostgreSQL documentation, appendix A).
_DATA_FAULTS = ("22", "23", "44", "54")
# What psycopg takes for an internal error and is a passing state of the server: a standby before its promotion, a
# transaction that waited too long.
_PASSING = ("25006", "25P03", "25P04")


class TooManyHeld(CannotContinue):
    """One more row would be held than MAX_HELD_ROWS: rather a bad deploy than bad data, so the consumer stops."""


@dataclass(slots=True)
class Received:
    """A message, the 16 bytes of its event's id, its true outbox row if there is one, and whether it is to be recorded now.

    Most of it is parsed while PostgreSQL takes what came before: see `event`.
    """

    message: Message
    key: bytes
    digest: bytes
    row: reconcile.Matched | None = None
    taken: bool = False
    parsed: events.Event | None = None

    @property
    def event(self) -> events.Event:
        """Raises events.Malformed."""
        if self.parsed is None:
            self.parsed = events.parse(self.message.value())
        return self.parsed


class Recorder:
    def __init__(self):
        self.group = settings.KAFKA_AUDIT_GROUP
        dead_letters.begin_counting()

    def is_transient(self, error: Exception) -> bool:
        if isinstance(error, InternalError):
            return _sqlstate(error) in _PASSING
        return isinstance(error, OperationalError | InterfaceError) and not _is_data_fault(error)

    def handle(self, messages: list[Message]) -> None:
        """Records a batch in one transaction. Where PostgreSQL refuses an event's data, halves the batch until that
        event is alone, and holds its outbox row. Raises TooManyHeld; transient faults pass through."""
        parts = [messages]
        while parts:
            part = parts.pop()
            try:
                with context.captured():
                    self._record(part)
            except ledger.Unrecordable as error:
                if not self._hold(error.item, str(error)):
                    raise
                parts.append(part)
            except (DataError, IntegrityError, OperationalError) as error:
                if not _is_data_fault(error):
                    raise
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                elif not self._hold_alone(part[0], error):
                    raise

    def _record(self, messages: list[Message]) -> None:
        began = time.monotonic()
        received, refused = _read(messages)
        with transaction.atomic():
            head = ledger.lock_head()
            now = reconcile.take_true(received)
            recordable = in_version_order([item for item in received if item.taken])
            if recordable:
                ledger.append(head, recordable, now)
            # Now, since a forgery may bear the id of an event that this batch records.
            sorted_out = reconcile.sort_out([item for item in received if not item.taken])
            refused += sorted_out.refused
            if refused:
                dead_letters.store(refused)
            committing = time.monotonic()
        RECORDED.inc(len(recordable))
        COMMIT_TO_ENTRY.observe_all([item.event.time for item in recordable], now)
        REPEATED.inc(sorted_out.repeated)
        REORDERED.inc(sorted_out.reordered)
        dead_letters.count(refused)
        _tell(recordable, head, sorted_out, len(refused), began, committing)

    def _hold_alone(self, message: Message, error: Exception) -> bool:
        received, _ = _read([message])
        # The first line: the others may quote the row.
        return any(self._hold(item, str(error).splitlines()[0]) for item in received)

    def _hold(self, item: Received, reason: str) -> bool:
        """Holds the true row of an event; False if there is none. It counts as unpublished, so that it goes out when it
        is released. Raises TooManyHeld, and holds nothing, when MAX_HELD_ROWS are held already."""
        event_id = UUID(bytes=item.key)
        with context.captured(), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_COUNT_HELD, [settings.MAX_HELD_ROWS])
            if cursor.fetchone()[0] >= settings.MAX_HELD_ROWS:
                raise TooManyHeld(
                    f"{settings.MAX_HELD_ROWS} events are held (TASKPULSE_MAX_HELD_ROWS) and the audit log cannot take event "
                    f"{event_id} either ({reason}): look at the reasons, mend the cause, and release them"
                )
            cursor.execute(_HOLD, [dead_letters.storable(reason[:1000]), event_id, item.digest])
            held = cursor.rowcount == 1
        if held:
            HELD.inc()
            logger.error("event %s is held: the audit log cannot take it (%s)", event_id, reason)
        return held


def _tell(recorded, head: ledger.Head, sorted_out: reconcile.SortedOut, refused: int, began: float, committing: float) -> None:
    """One line in the log, and the batch's spans if traces are on."""
    last = head.first_seq + head.edge.size - 1
    fields = {
        "recorded": len(recorded),
        "seq_first": last - len(recorded) + 1 if recorded else None,
        "seq_last": last if recorded else None,
        "repeated": sorted_out.repeated or None,
        "reordered": sorted_out.reordered or None,
        "dead_letters": refused or None,
        "duration_ms": round((time.monotonic() - began) * 1000, 3),
    }
    request_ids = (item.event.requestid for item in recorded)
    named = ((item.event.id, item.event.taskid) for item in recorded)
    text = "%(recorded)d events recorded in %(duration_ms).1f ms"
    logs.batch(logger, text, fields, request_ids, len(recorded), named)
    if tracing.ENABLED:
        tracing.batch("consumer", "record", (item.message.value() for item in recorded), began, committing)


_COUNT_HELD = "SELECT count(*) FROM (SELECT FROM tasks_outbox WHERE held_at IS NOT NULL LIMIT %s) held"
_HOLD = """
UPDATE tasks_outbox SET held_at = clock_timestamp(), held_reason = %s, published_at = NULL,
  attempts = attempts + (published_at IS NULL)::int
WHERE event_id = %s AND digest = %s AND held_at IS NULL
"""


def _sqlstate(error: Exception) -> str:
    return getattr(error.__cause__, "sqlstate", None) or ""


def _is_data_fault(error: Exception) -> bool:
    return _sqlstate(error)[:2] in _DATA_FAULTS


def _read(messages: list[Message]) -> tuple[list[Received], list[dead_letters.Refused]]:
    """What has the id of an event, and the rest as dead letters. Whether the former are events shows when they are parsed."""
    received, refused = [], []
    for message in messages:
        value = message.value() or b""
        key, parsed = events.event_id(value), None
        if key is None:
            try:
                parsed = events.parse(value)
            except events.Malformed as error:
                refused.append(dead_letters.Refused(message, "malformed", str(error)))
                continue
            key = parsed.id.bytes
        received.append(Received(message, key, hashlib.sha256(value).digest(), parsed=parsed))
    return received, refused


def in_version_order(items: list[Received]) -> list[Received]:
    """The batch in the order of its arrival, but each subject's events by version in the places that they hold."""
    if len({(item.row.subject_type, item.row.subject_id) for item in items}) == len(items):
        return items
    by_subject: dict[tuple[str, str], list[Received]] = {}
    for item in items:
        by_subject.setdefault((item.row.subject_type, item.row.subject_id), []).append(item)
    turns = {}
    for key, subject in by_subject.items():
        if len(subject) > 1:
            subject.sort(key=lambda item: item.row.version or 0)
        turns[key] = iter(subject)
    return [next(turns[item.row.subject_type, item.row.subject_id]) for item in items]
