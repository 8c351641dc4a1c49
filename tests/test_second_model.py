"""Capture is one mechanism: a second audited model joins by its class and one line of its migration."""

import json
import uuid

import pytest
from django.db import connection, models

from tasks.audited import AuditedModel
from tasks.events import uuid7
from tasks.models import OutboxEvent, Task, Tombstone

# A model that is not installed has no schema.
pytestmark = pytest.mark.foreign_events


class Note(AuditedModel):
    """A model of the tests: belongs to a task, has no document function of Task's."""

    subject_type = "note"
    id = models.UUIDField(primary_key=True, default=uuid7)
    task = models.ForeignKey(Task, models.CASCADE, related_name="+")
    body = models.TextField()

    class Meta(AuditedModel.Meta):
        app_label = "tests"
        db_table = "tests_note"

    @property
    def task_key(self) -> uuid.UUID:
        return self.task_id

    @classmethod
    def documents(cls, rows) -> list[dict]:
        return [{"body": row.body, "id": str(row.pk), "task": str(row.task_id), "version": row.version} for row in rows]


INSTALL = """
CREATE FUNCTION note_document(note tests_note) RETURNS jsonb LANGUAGE sql STABLE AS
  $$ SELECT jsonb_build_object('body', note.body, 'id', note.id, 'task', note.task_id, 'version', note.version) $$;
SELECT taskpulse_audit('tests_note', 'note', 'note_document', 'task_id');
"""


@pytest.fixture
def note(db) -> Note:
    with connection.schema_editor() as editor:
        editor.create_model(Note)
    with connection.cursor() as cursor:
        cursor.execute(INSTALL)
    task = Task.objects.create(title="One")
    return Note.objects.create(task=task, body="first")


def events(subject_id) -> list[dict]:
    connection.check_constraints()
    rows = OutboxEvent.objects.filter(subject_type="note", subject_id=str(subject_id)).order_by("version")
    for row in rows:
        assert row.task_id is not None
    return [json.loads(bytes(row.payload)) for row in rows]


def test_every_path_is_captured_and_the_task_keeps_its_version(note):
    key, task = note.pk, note.task
    note.body = "second"
    note.save()
    Note.objects.filter(pk=key).update(body="third")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tests_note SET body = 'fourth' WHERE id = %s", [key])
    Note.objects.filter(task=task).delete()
    task.delete()
    made = events(key)
    assert [(event["type"], int(event["sequence"])) for event in made] == [
        ("note.created", 1), ("note.updated", 2), ("note.updated", 3), ("note.updated", 4), ("note.deleted", 5)
    ]  # fmt: skip
    assert [event["data"]["note"]["body"] for event in made] == ["first", "second", "third", "fourth", "fourth"]
    assert {event["subject"] for event in made} == {f"note/{key}"}
    assert {event["taskid"] for event in made} == {str(made[0]["data"]["note"]["task"])}
    assert made[3]["data"]["changes"] == {"body": {"from": "third", "to": "fourth"}}
    assert Tombstone.objects.get(subject_type="note").version == 5
    assert Tombstone.objects.get(subject_type="task").version == 2


def test_signal_and_backstop_agree_on_it_too(note):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tests_note (id, task_id, body) VALUES (uuidv7(), %s, 'raw') RETURNING id", [note.task_id])
        raw = cursor.fetchone()[0]
    by_signal, by_database = events(note.pk)[0], events(raw)[0]
    assert by_signal.keys() - {"authid"} == by_database.keys() - {"authid"}
    assert by_signal["data"].keys() == by_database["data"].keys()
    assert by_signal["dataschema"] == by_database["dataschema"]
