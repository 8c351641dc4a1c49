"""What the tests of recorder, consumer and log share: messages made of outbox rows, and the check that a log is whole."""

import hashlib
import itertools
import json
import uuid

import rfc8785
from confluent_kafka import Message
from django.db import connection

from audit import leaf, merkle, redaction
from audit.models import Entry, LogHead
from audit.recorder import Recorder
from tasks import events
from tasks.models import OutboxEvent, Task

_offsets = itertools.count()


def message(value, partition: int = 0, key: bytes | None = b"key", headers=None) -> Message:
    return Message(topic="task-events", partition=partition, offset=next(_offsets), key=key, value=value, headers=headers)


def waiting(subject_id=None) -> list[OutboxEvent]:
    """Outbox rows in the order of their ids, of one subject or all."""
    rows = OutboxEvent.objects.order_by("id")
    return list(rows if subject_id is None else rows.filter(subject_id=str(subject_id)))


def messages(rows, partition: int = 0) -> list[Message]:
    return [message(bytes(row.payload), partition) for row in rows]


def task_with_versions(count: int, **fields) -> Task:
    task = Task.objects.create(title="version 1", **fields)
    for number in range(2, count + 1):
        task.title = f"version {number}"
        task.save()
    return task


def publish_all() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_outbox SET published_at = now() WHERE published_at IS NULL AND held_at IS NULL")


def add_outbox_row(payload: bytes, *, event_id, subject_type="task", subject_id, version, task_id=None) -> None:
    """A row as no code of ours would write it, and as PostgreSQL takes it from the owner alone."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            [event_id, subject_type, str(subject_id), version, task_id, payload],
        )


def forged(**attributes) -> bytes:
    """An event that no change made."""
    event = {
        "id": str(uuid.uuid4()), "source": events.SOURCE, "specversion": "1.0", "subject": "task/1", "type": "task.created",
        "time": "2026-01-15T10:30:00.123456Z", "sequence": "00000000000000000001",
    }  # fmt: skip
    return json.dumps(event | attributes).encode()


def record(batch) -> None:
    Recorder().handle(batch)


def recorded(subject_id=None) -> list[tuple[str, int | None]]:
    """(subject, version) in the order of the log."""
    entries = Entry.objects.order_by("seq")
    if subject_id is not None:
        entries = entries.filter(subject_id=str(subject_id))
    return list(entries.values_list("subject_id", "version"))


def versions(subject_id) -> list[int]:
    return [version for _, version in recorded(subject_id)]


def assert_log_is_whole() -> int:
    """`seq` without gap, each event once, each subject's versions in order, digest of the canonical bytes (or a marker, with
    the event that names the entry), leaves and tree recomputed and equal to the head's. Returns the number of entries."""
    head = LogHead.objects.order_by("-first_seq").first()
    tree = merkle.Edge()
    seen: set[uuid.UUID] = set()
    last: dict[tuple[str, str], int] = {}
    accounts: dict[str, dict] = {}
    # Read piece by piece: the log may be long.
    for number, entry in enumerate(Entry.objects.filter(seq__gte=head.first_seq).order_by("seq").iterator(2_000)):
        assert entry.seq == head.first_seq + number
        assert entry.event_id not in seen
        seen.add(entry.event_id)
        digest = bytes(entry.digest)
        if (account := redaction.accounted_by(entry.event_data)) is None:
            assert hashlib.sha256(rfc8785.dumps(entry.event_data)).digest() == digest
        else:
            assert [getattr(entry, name) for name in redaction.CLEARED] == [None] * len(redaction.CLEARED)
            if account not in accounts:
                accounts[account] = _event(account)
            assert redaction.names(accounts[account], entry.seq), entry.seq
        hashed = merkle.leaf_hash(
            leaf.record(
                head.origin, entry.seq, entry.event_id, entry.event_type, entry.subject_type, entry.subject_id, entry.version,
                entry.task_id, entry.actor_id, entry.occurred_at, entry.processed_at, entry.topic, entry.partition, entry.offset,
                digest,
            )
        )  # fmt: skip
        assert hashed == bytes(entry.leaf_hash)
        tree.append(hashed)
        if entry.version is not None:
            subject = (entry.subject_type, entry.subject_id)
            assert entry.version == last.get(subject, 0) + 1
            last[subject] = entry.version
    assert (head.size, bytes(head.edge)) == (len(seen), tree.to_bytes())
    return len(seen)


def _event(event_id: str) -> dict:
    """Of the log, or what still waits in the outbox."""
    entry = Entry.objects.filter(event_id=event_id).first()
    return entry.event_data if entry else json.loads(bytes(OutboxEvent.objects.get(event_id=event_id).payload))


def grow_log(count: int) -> None:
    """`count` more entries, one of a task each."""
    Task.objects.bulk_create([Task(title=f"task {number}") for number in range(count)])
    record(messages(waiting()))
