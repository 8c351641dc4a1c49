"""A successor log: what follows upon a log that can be signed no more.

A database that was restored from an older dump has lost entries that were signed for. Going on, the log would fork: two
histories under one name. So it ends where it is, and another one begins with the next `seq`, under a name and in a tree of
its own. Its first entry says so: it names what is left of the predecessor and the newest checkpoint that was held outside
the database, so that the loss is on record, signed, and can be counted. (DESIGN: "After a restore".)
"""

import base64
import hashlib

from confluent_kafka import Message
from django.db import connection, transaction

from audit import ledger, reconcile
from audit.checkpoint import Checkpoint
from audit.models import Entry, LogHead
from audit.recorder import Received
from audit.tile_writer import Head, TileWriter, read_head
from tasks import context, events

KIND, ACTION = "audit.log", "opened"
# The first entry came by no topic; its leaf record says so (docs/leaf-record.md).
NO_TOPIC = ""


class CannotOpen(Exception):
    """There can be no successor now; the message says why."""


def open_successor(origin: str | None, promised: Checkpoint | None) -> Head:
    """Ends the present log and begins another, `origin` or `PRESENT/SEQ`; the reason is that of `context.current()`.

    `promised` is the newest checkpoint of the present log that is known outside the database. The caller holds the
    checkpointer's lock. Raises CannotOpen; Tampered where the entries do not give the tree that is to be closed.
    """
    present = read_head()
    if present is None or not present.size:
        raise CannotOpen("the log has no entry: give its successor's name as AUDIT_LOG_ORIGIN, in a new database")
    writer = TileWriter(present.log)
    while writer.size < present.size:
        writer.advance(present.size)
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Recorders lock the present head's row: whoever waited for that would then append to a log that has ended.
            cursor.execute("SET LOCAL lock_timeout = '30s'")
            cursor.execute("LOCK TABLE audit_log IN EXCLUSIVE MODE")
        present = read_head()
        while writer.size < present.size:
            writer.advance(present.size)
        if writer.edge().to_bytes() != present.edge:
            raise CannotOpen("the entries do not give the tree of the log's head: restore a database whose log is whole")
        writer.close_log()
        seq = present.log + present.size
        origin = origin or f"{LogHead.objects.earliest('first_seq').origin}/{seq}"
        if LogHead.objects.filter(origin=origin).exists():
            raise CannotOpen(f"there is a log {origin} already: name another")
        LogHead.objects.create(origin=origin, first_seq=seq)
        head = ledger.lock_head()
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            (now,) = cursor.fetchone()
        told = {"origin": origin, "predecessor": _predecessor(present, writer.edge().root(), promised)}
        ledger.append(head, [_opening(origin, told, now)], now)
    return read_head()


def _predecessor(ended: Head, root: bytes, promised: Checkpoint | None) -> dict:
    return {
        "origin": ended.origin,
        "size": ended.size,
        "root": base64.b64encode(root).decode(),
        "checkpoint": promised and {"size": promised.size, "root": base64.b64encode(promised.root).decode()},
    }


def _opening(origin: str, told: dict, now) -> Received:
    """The first entry, as the ledger takes it. It passes through no outbox: entry and log are made in one transaction."""
    event_id, payload = events.build(
        subject_type=KIND, subject_id=origin, action=ACTION, version=None, moment=now, task_id=None, document=told, changed={},
        attributes=context.current().attributes(),
    )  # fmt: skip
    message = Message(topic=NO_TOPIC, partition=0, offset=0, value=payload)
    row = reconcile.Matched(KIND, origin, None, None, held=False, taken=True)
    return Received(message, event_id.bytes, hashlib.sha256(payload).digest(), row, taken=True)


def doubt(head: Head, promised: Checkpoint | None) -> str | None:
    """Why the first entry of a successor does not account for its predecessor, of which `promised` is the newest checkpoint
    known; None if it does. Whoever can write to the database could begin a log that passes over what was signed."""
    entry = Entry.objects.filter(seq=head.log).first()
    told = {} if entry is None else (entry.event_data.get("data") or {}).get(KIND) or {}
    if entry is None or entry.event_type != f"{KIND}.{ACTION}" or told.get("origin") != head.origin:
        return f"the log {head.origin} does not begin with the entry that opens it"
    if hashlib.sha256(events.canonical(entry.event_data)).digest() != bytes(entry.digest):
        return f"entry {head.log}, which opens the log {head.origin}, is not what its digest says"
    named = (told["predecessor"].get("checkpoint") or {}).get("size", 0)
    if promised is not None and promised.size > named:
        return (
            f"the log {head.origin} begins with entry {head.log} and says that of its predecessor {named} entries were signed for; "
            f"there is a checkpoint of {promised.size}"
        )
    return None


def predecessor(head: Head) -> str | None:
    """The name of the log before; None for the first."""
    before = LogHead.objects.filter(first_seq__lt=head.log).order_by("first_seq").last()
    return before and before.origin
