"""What older and later versions write is recorded as it is: events of the wire format, kept byte by byte.

01 to 07 were written by the code of November 2026 (signals, bulk methods and the database's own capture), 08 and 09 are
of a later version, with a type, attributes and data that this one does not know. A file here is never altered: the
outbox and the topic of an installation that is being upgraded hold such events.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection

from audit.models import DeadLetter, Entry
from tasks import context
from tasks.models import OutboxEvent, Task
from tests.recording import add_outbox_row, assert_log_is_whole, messages, record, waiting

GOLDEN = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "golden_events").glob("*.json"))}


def add_golden() -> None:
    for payload in GOLDEN.values():
        event = json.loads(payload)
        kind, _, subject = event["subject"].partition("/")
        add_outbox_row(
            payload, event_id=event["id"], subject_type=kind, subject_id=subject,
            version=int(event["sequence"]) if "sequence" in event else None, task_id=event.get("taskid"),
        )  # fmt: skip


@pytest.mark.django_db
@pytest.mark.foreign_events
def test_each_is_recorded_once_and_unchanged():
    add_golden()
    record(messages(waiting()))
    assert DeadLetter.objects.count() == 0
    assert not OutboxEvent.objects.exists()
    assert assert_log_is_whole() == len(GOLDEN) == 9
    for entry, payload in zip(Entry.objects.order_by("seq"), GOLDEN.values(), strict=True):
        event = json.loads(payload)
        assert bytes(entry.digest) == hashlib.sha256(payload).digest()
        assert entry.event_data == event
        columns = {
            "id": str(entry.event_id), "type": entry.event_type, "subject": f"{entry.subject_type}/{entry.subject_id}",
            "taskid": entry.task_id and str(entry.task_id), "actorid": entry.actor_id, "actorname": entry.actor_name,
            "actortype": entry.actor_type, "requestid": entry.request_id,
            "sequence": None if entry.version is None else f"{entry.version:020d}",
            "time": entry.occurred_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }  # fmt: skip
        assert columns == {name: event.get(name) for name in columns}


@pytest.mark.django_db
@pytest.mark.foreign_events
def test_an_event_that_was_sent_before_the_upgrade_and_comes_again_is_absorbed():
    add_golden()
    sent = messages(waiting())
    record(sent)
    record(sent)
    assert Entry.objects.count() == len(GOLDEN)
    assert DeadLetter.objects.count() == 0


def paths(value, at: str = "") -> set[str]:
    """Each place in a document with the type of what stands there; the members of lists count as one."""
    if isinstance(value, dict):
        return {found for key, inner in value.items() for found in paths(inner, f"{at}/{key}")}
    if isinstance(value, list):
        return {found for inner in value for found in paths(inner, f"{at}[]")} or {f"{at}[]"}
    return {f"{at} {type(value).__name__}"}


def same_changes_made_now() -> list[dict]:
    """The changes from which 01 to 07 came."""
    ana, bo = User.objects.create(username="ana"), User.objects.create(username="bø")
    now = context.Context(request_id="r", traceparent="t", client_ip="192.0.2.7", reason="because")
    now.actor = context.Actor.of_user(ana, "tok_golden")
    golden = json.loads(GOLDEN["01-task-created-v1"])["data"]["task"]
    fields = {name: golden[name] for name in ("title", "description", "priority", "labels", "due_at", "category", "summary")}
    fields["due_at"] = datetime.fromisoformat(fields["due_at"])
    with context.use(now):
        task = Task.objects.create(**fields, assignee=bo, created_by=ana)
        subtask = Task.objects.create(title="sub", parent=task)
        task.refresh_from_db()
        task.status = "completed"
        task.save()
        Task.objects.filter(pk=subtask.pk).update(priority="low")
        subtask.refresh_from_db()
        subtask.delete()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_task SET labels = '{}', category = NULL, status = 'in_progress' WHERE id = %s", [task.pk])
        cursor.execute("DELETE FROM tasks_task WHERE id = %s", [task.pk])
    return [json.loads(bytes(row.payload)) for row in waiting()]


def test_the_same_changes_still_say_all_that_they_said(committed_db):
    """A later version may add to an event; a name or a type that is gone would break who reads it."""
    for written, golden in zip(same_changes_made_now(), list(GOLDEN.values())[:7], strict=True):
        then = json.loads(golden)
        assert not paths(then) - paths(written)
        for name in ("type", "sequence", "source", "specversion", "dataschema", "datacontenttype", "actortype"):
            assert written.get(name) == then.get(name)
