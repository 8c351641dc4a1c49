"""The log's head and its appending: entries, leaves and tree in the caller's transaction.

Whoever appends holds the head's row lock, so `seq` has no gap and the tree grows by one writer at a time.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from audit import leaf, merkle
from tasks.events import Event, Malformed

# The next partition is made when the log comes within this many entries of it.
_AHEAD = 1_000_000


@dataclass(slots=True)
class Head:
    origin: str
    first_seq: int
    edge: merkle.Edge


# How long a recorder waits for a lock: shorter than a stop may take.
LOCK_TIMEOUT = "10s"


class Unrecordable(Exception):
    """One event (recorder.Received) that the log cannot take, with the reason."""

    def __init__(self, item, reason: str):
        super().__init__(reason)
        self.item = item


class NoLog(Exception):
    """The table audit_log has no head: the database is not migrated."""


def lock_head() -> Head:
    """Lock and state in one statement. Waits while another recorder commits, 10 s at the most: OperationalError then,
    so that a stop is never missed for long."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute("SELECT origin, first_seq, size, edge FROM audit_log ORDER BY first_seq DESC LIMIT 1 FOR UPDATE")
        row = cursor.fetchone()
    if row is None:
        raise NoLog("the audit log has no head: run `manage.py migrate`")
    origin, first_seq, size, edge = row
    return Head(origin, first_seq, merkle.Edge.from_bytes(size, bytes(edge)))


_TYPES = [
    "int8", "uuid", "text", "text", "text", "int8", "uuid", "text", "text", "text", "text",
    "jsonb", "timestamptz", "timestamptz", "text", "int4", "int8", "bytea", "bytea",
]  # fmt: skip
_COPY = """
COPY task_audit_log (seq, event_id, event_type, subject_type, subject_id, version, task_id, actor_id, actor_name, actor_type,
request_id, event_data, occurred_at, processed_at, topic, partition, "offset", digest, leaf_hash) FROM STDIN (FORMAT BINARY)
"""


class _PayloadDumper(Dumper):
    """The event's bytes as JSONB, untouched (jsonb_recv: version 1, then the text)."""

    format, oid = Format.BINARY, types["jsonb"].oid

    def dump(self, obj: bytes) -> bytes:
        return b"\x01" + obj


def append(head: Head, items, now: datetime) -> None:
    """Appends `items` (recorder.Received with their outbox rows) as entries with seq, leaf and tree, and moves the head.

    Raises Unrecordable for an event whose bytes do not fit what its outbox row says.
    """
    edge = head.edge
    seq = head.first_seq + edge.size
    with connection.cursor() as cursor:
        if edge.size == 0 or (seq - 1) // _AHEAD != (seq - 1 + len(items)) // _AHEAD:
            cursor.execute("SELECT audit_ensure_partition(%s), audit_ensure_partition(%s)", [seq, seq + len(items) + _AHEAD])
        # Django does not translate the errors of a COPY by itself.
        with connection.wrap_database_errors, cursor.copy(_COPY) as copy:
            cursor.cursor.adapters.register_dumper(Jsonb, _PayloadDumper)
            copy.set_types(_TYPES)
            for item in items:
                copy.write_row(_entry(head.origin, seq, item, now, edge))
                seq += 1
        cursor.execute("UPDATE audit_log SET size = %s, edge = %s WHERE origin = %s", [edge.size, edge.to_bytes(), head.origin])


def _entry(origin: str, seq: int, item, now: datetime, edge: merkle.Edge) -> tuple:
    row, message, event = item.row, item.message, _event(item)
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    try:
        record = leaf.record(
            origin, seq, event.id, event.type, row.subject_type, row.subject_id, row.version, row.task_id, event.actorid,
            event.time, now, topic, partition, offset, item.digest,
        )  # fmt: skip
    except ValueError as error:
        raise Unrecordable(item, str(error)) from None
    leaf_hash = merkle.leaf_hash(record)
    edge.append(leaf_hash)
    return (
        seq, event.id, event.type, row.subject_type, row.subject_id, row.version, row.task_id, event.actorid, event.actorname,
        event.actortype, event.requestid, message.value(), event.time, now, topic, partition, offset,
        item.digest, leaf_hash,
    )  # fmt: skip


def _event(item) -> Event:
    """What the message says, which must be what its outbox row says. Raises Unrecordable."""
    row = item.row
    try:
        event = item.event
    except Malformed as error:
        raise Unrecordable(item, str(error)) from None
    if event.subject != f"{row.subject_type}/{row.subject_id}" or event.version != row.version or event.taskid != row.task_id:
        raise Unrecordable(item, "the event names another subject, version or task than its outbox row")
    if event.id.bytes != item.key:
        raise Unrecordable(item, "the event names another id than its outbox row")
    return event
