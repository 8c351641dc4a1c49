"""Changes whose event is written before their row's time is known: what is told is what PostgreSQL decided, or nothing is."""

import json

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.events import MARK, MOMENT
from tasks.foretold import Foretelling
from tasks.models import OutboxEvent, Task
from tests.api_client import api, problem

_TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40)
_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["One", "\\u0001" * 27, '"\\']),
        "description": _TEXTS | st.just(MARK.decode()),
        "status": st.sampled_from(["pending", "in_progress", "completed"]),
        "due_at": st.sampled_from([None, "2027-01-01T00:00:00Z", "2027-01-01T00:00:00.000001+02:00"]),
        "labels": st.lists(st.sampled_from(["billing", "a,b", '"']), unique=True),
    },
)


def event_of(task: dict) -> dict:
    payload = OutboxEvent.objects.get(subject_id=task["id"], version=task["version"]).payload
    assert MARK not in bytes(payload)
    return json.loads(bytes(payload))


def in_the_database(task: dict) -> dict:
    ((document,),) = connection.fetch("SELECT task_document(t)::text FROM tasks_task t WHERE id = %s", [task["id"]])
    return json.loads(document)


@given(_VALUES, st.lists(_VALUES, max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.django_db
def test_answer_event_and_row_say_the_same(first, changes):
    ana = api()
    task = ana.create(**first)
    for values in [None, *changes]:
        if values is not None:
            answered = ana.patch(f"/api/tasks/{task['id']}", values)
            assert answered.status_code in (200, 409), answered.content  # a completed task does not become pending
            task = answered.json() if answered.status_code == 200 else task
        assert event_of(task)["time"] == task["updated_at"]
        assert event_of(task)["data"]["task"] == task == in_the_database(task) == ana.get(f"/api/tasks/{task['id']}").json()


def test_what_is_kept_for_a_key_has_its_time(committed_db):
    ana = api()
    first, second = (ana.post({"title": "One"}, Idempotency_Key="k") for _ in range(2))
    assert first.content == second.content
    assert MARK not in first.content
    assert first.json() == in_the_database(first.json())


def test_a_row_that_is_not_as_foretold_is_written_again_as_always(committed_db, monkeypatch):
    """The id of a task that was deleted: its first version is not 1."""
    ana = api()
    gone = ana.create()
    assert ana.send("DELETE", f"/api/tasks/{gone['id']}").status_code == 204
    OutboxEvent.objects.all().delete()
    monkeypatch.setattr(Task, "fresh", classmethod(lambda cls, **values: cls(id=gone["id"], **values)))
    task = ana.create(title="Again")
    assert task["version"] == 3
    assert event_of(task)["data"]["task"] == task == in_the_database(task)
    assert [event.version for event in OutboxEvent.objects.all()] == [3]


def test_a_foretelling_that_is_wrong_writes_nothing(committed_db):
    """Under the capture, which would write the event that the statement did not."""
    task = Task.objects.create(title="One")
    Task.objects.filter(pk=task.pk).update(title="Two")
    OutboxEvent.objects.all().delete()
    with pytest.raises(IntegrityError, match="the payload is not the event"), Foretelling(), transaction.atomic():
        task.title = "Three"  # of a version that is gone: the event would tell of another's version 2
        task.save()
    task.refresh_from_db()
    assert (task.title, task.version) == ("Two", 2)
    assert not OutboxEvent.objects.exists()


@pytest.mark.parametrize("more", [{}, {"status": "in_progress"}])
def test_what_a_constraint_refuses_is_told_as_always(committed_db, monkeypatch, more):
    ana = api()
    task = ana.create()
    monkeypatch.setattr("tasks.api.views._CHANGE.run_validation", lambda body: body)
    document = problem(ana.patch(f"/api/tasks/{task['id']}", {"summary": "x" * 2_001} | more), 422)
    assert [error["pointer"] for error in document["errors"]] == ["#/summary"]
    assert in_the_database(task) == task


def test_one_change_of_a_block_is_foretold(committed_db):
    with Foretelling() as foretelling, transaction.atomic():
        one = Task.fresh(title="One")
        one.save_base(using="default", force_insert=True)
        assert one.updated_at is MOMENT
        two = Task.fresh(title="Two")
        two.save_base(using="default", force_insert=True)
        assert two.updated_at is not MOMENT
    assert one.updated_at == foretelling.moment == Task.objects.get(pk=one.pk).updated_at
    one.title = "Changed"
    one.save()
    event = event_of({"id": str(one.pk), "version": 2})
    assert event["data"]["changes"] == {"title": {"from": "One", "to": "Changed"}}
