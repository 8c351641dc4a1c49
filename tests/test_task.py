"""The task's rules, each kept by the database, and the document that API, signal and backstop share."""

import json
import threading
import uuid
from datetime import UTC, datetime

import psycopg
import pytest
import rfc8785
from django.contrib.auth.models import User
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import ProtectedError
from django.db.models.functions import Now
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import events
from tasks.models import OutboxEvent, Task

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def insert(**columns) -> None:
    row = {"id": "01999999-0000-7000-8000-000000000001", "title": "Raw", "description": "", "priority": "low", "status": "pending",
           "labels": "{}"} | columns  # fmt: skip
    names = ", ".join(row)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO tasks_task ({names}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values()))


@pytest.mark.parametrize("name", ["description", "priority", "labels"])
def test_a_null_is_no_default(db, name):
    """What psql may leave out has a default in the database, and Python's None is not left out."""
    with pytest.raises(IntegrityError, match="null value"), transaction.atomic():
        Task(**{"title": "One", name: None}).save()


@pytest.mark.parametrize(
    "columns",
    [
        {"title": ""},
        {"title": "x" * 256},
        {"description": "x" * 20_001},
        {"category": "x" * 65},
        {"summary": "x" * 2_001},
        {"priority": "urgent"},
        {"status": "done"},
        {"labels": "{" + ",".join(f"l{n}" for n in range(51)) + "}"},
        {"labels": "{" + "x" * 65 + "}"},
        {"labels": '{""}'},
        {"labels": "{NULL}"},
        {"labels": "{{a},{b}}"},
        {"due_at": "10000-01-01T00:00:00Z"},
        {"due_at": "0001-01-01T00:00:00+01:00"},
        {"due_at": "infinity"},
        {"parent_id": "01999999-0000-7000-8000-000000000001"},
    ],
    ids=str,
)
def test_the_database_refuses_what_the_api_refuses(db, columns):
    with pytest.raises((IntegrityError, DataError)):
        insert(**columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"title": "😀" * 255},
        {"description": "😀" * 20_000, "summary": "x" * 2_000, "category": "x" * 64},
        {"labels": "{" + ",".join(f"{n:064}" for n in range(50)) + "}"},
        {"due_at": "9999-12-31T23:59:59.999999Z"},
        {"due_at": "0001-01-01T00:00:00Z"},
    ],
    ids=lambda columns: ",".join(columns),
)
def test_the_limits_themselves_are_allowed(db, columns):
    insert(**columns)
    connection.check_constraints()
    assert Task.objects.count() == OutboxEvent.objects.count() == 1


def test_a_person_at_psql_needs_to_name_the_title_alone(db):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tasks_task (title) VALUES ('Raw')")
    task = Task.objects.get()
    assert (task.id.version, task.status, task.priority, task.labels, task.version) == (7, "pending", "medium", [], 1)


def test_completed_at_goes_with_the_status(db):
    task = Task.objects.create(title="One")
    Task.objects.update(status="completed")
    task.refresh_from_db()
    assert task.completed_at == task.updated_at
    task.status = "in_progress"
    task.save()
    assert task.completed_at is None
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_task SET completed_at = now()")


def test_people_are_protected(db):
    ana = User.objects.create(username="ana")
    Task.objects.create(title="One", assignee=ana)
    with pytest.raises(ProtectedError):
        ana.delete()


def test_subtasks_are_one_level_deep(db):
    top, other = Task.objects.create(title="Top"), Task.objects.create(title="Other")
    child = Task.objects.create(title="Child", parent=top)
    with pytest.raises(IntegrityError, match="one level deep"), transaction.atomic():
        Task.objects.create(title="Grandchild", parent=child)
    with pytest.raises(IntegrityError, match="one level deep"), transaction.atomic():
        top.parent = other
        top.save()


def test_two_transactions_cannot_build_a_second_level_together(committed_db):
    """Each sees a legal tree; the lock on the parent lets one of them see the other's."""
    a, b, c = (Task.objects.create(title=title) for title in "abc")
    results = []

    def attach_b_to_c():
        with psycopg.connect(committed_db) as other:
            try:
                other.execute("UPDATE tasks_task SET parent_id = %s WHERE id = %s", [c.pk, b.pk])
                results.append("done")
            except psycopg.errors.CheckViolation:
                results.append("refused")

    with psycopg.connect(committed_db) as session:
        session.execute("UPDATE tasks_task SET parent_id = %s WHERE id = %s", [b.pk, a.pk])  # a under b
        thread = threading.Thread(target=attach_b_to_c)
        thread.start()
        thread.join(0.3)
        session.commit()
        thread.join()
    assert results == ["refused"]
    assert Task.objects.get(pk=b.pk).parent_id is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    title=text.filter(bool).map(lambda value: value[:255]),
    description=text,
    labels=st.lists(text.filter(bool).map(lambda value: value[:64]), max_size=5),
    optional=st.none() | text.map(lambda value: value[:64]),
    due_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_signal_and_backstop_write_the_same_bytes(db, title, description, labels, optional, due_at):
    """The two makers of an event agree on any task, and both write RFC 8785."""
    task = Task.objects.create(title=title, description=description, labels=labels, category=optional, due_at=due_at)
    with connection.cursor() as cursor:
        cursor.execute("SELECT convert_to(taskpulse_jcs(task_document(t)), 'UTF8') FROM tasks_task t WHERE id = %s", [task.pk])
        by_database = bytes(cursor.fetchone()[0])
        by_signal = json.loads(bytes(OutboxEvent.objects.get(subject_id=str(task.pk)).payload))
        assert by_database == events.canonical(by_signal["data"]["task"]) == rfc8785.dumps(by_signal["data"]["task"])
        cursor.execute("UPDATE tasks_task SET title = 'x' || left(title, 254), status = 'completed' WHERE id = %s", [task.pk])
        connection.check_constraints()
    event = json.loads(bytes(OutboxEvent.objects.get(subject_id=str(task.pk), version=2).payload))
    before, after = by_signal["data"]["task"], event["data"]["task"]
    assert event["data"]["changes"] == events.changes(before, after, Task.derived)
    assert rfc8785.dumps(event) == bytes(OutboxEvent.objects.get(subject_id=str(task.pk), version=2).payload)


def test_the_worst_event_stays_under_900_kb(db):
    """Kafka refuses 1 MB. The longest escape is six bytes a character; an update bears the text three times."""
    worst = dict(title="\x01" * 255, description="\x01" * 20_000, summary="\x01" * 2_000, category="\x01" * 64)
    task = Task.objects.create(**worst, labels=["\x01" * 62 + f"{n:02}" for n in range(50)])
    other = {name: value.replace("\x01", "\x02") for name, value in worst.items()}
    Task.objects.filter(pk=task.pk).update(**other, labels=["\x02" * 62 + f"{n:02}" for n in range(50)])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_task SET title = %s, description = %s", [worst["title"], worst["description"]])
    connection.check_constraints()
    sizes = [len(row.payload) for row in OutboxEvent.objects.all()]
    assert len(sizes) == 3
    assert 300_000 < max(sizes) < 900_000


def test_uuid7_is_time_ordered_and_of_version_7():
    made = [events.uuid7() for _ in range(1000)]
    assert {value.version for value in made} == {7}
    assert {value.variant for value in made} == {"specified in RFC 4122"}
    assert len(set(made)) == 1000
    seconds = (made[0].int >> 80) / 1000
    assert abs(datetime.fromtimestamp(seconds, UTC) - datetime.now(UTC)).total_seconds() < 60
    assert [value.int >> 76 for value in made] == sorted(value.int >> 76 for value in made)


def test_the_checks_are_short(db):
    """PostgreSQL reads them from their stored form with every INSERT and UPDATE of a task."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(length(conbin::text)) FROM pg_constraint WHERE conrelid = 'tasks_task'::regclass AND contype = 'c'"
        )
        assert cursor.fetchone()[0] < 10_000


def test_a_value_that_postgresql_computes_is_inserted(db):
    task = Task.objects.create(title="One", created_at=Now())
    assert Task.objects.get().created_at == task.created_at <= task.updated_at


def test_a_new_instance_is_as_init_makes_it():
    fresh, made = Task.fresh(title="One"), Task(title="One")
    names = {field.attname for field in Task._meta.concrete_fields} - {"id"}
    assert {name: fresh.__dict__[name] for name in names} == {name: made.__dict__[name] for name in names}
    assert isinstance(fresh.pk, uuid.UUID)
    assert fresh._state.adding
    assert fresh._state.db is None
    assert Task.fresh().labels is not Task.fresh().labels
