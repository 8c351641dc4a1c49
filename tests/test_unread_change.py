"""Changes of a task in the statement that reads it: as if it had been locked, read and then written."""

import itertools
import json
import uuid
from functools import partial

import pytest
from django.db import connection

from tasks.models import OutboxEvent, Task
from tests.api_client import api, person, problem
from tests.test_two_people import at_once

TASK = {
    "title": "One", "description": "long", "priority": "high", "labels": ["a", '"b\\'], "category": "c", "summary": "s",
    "due_at": "2027-01-01T00:00:00Z",
}  # fmt: skip
OTHER = {
    "title": "Two", "description": "", "priority": "low", "labels": [], "category": None, "summary": None, "due_at": None,
}  # fmt: skip


def events_of(task_id: str) -> list[dict]:
    return [json.loads(bytes(row.payload)) for row in OutboxEvent.objects.filter(subject_id=task_id).order_by("version")]


def row_version(task_id: str) -> int:
    return connection.fetch("SELECT xmin::text::bigint FROM tasks_task WHERE id = %s", [task_id])[0][0]


@pytest.mark.parametrize("name", TASK)
def test_each_field_is_changed_alone_and_back(committed_db, name):
    ana = api()
    task = ana.create(**TASK, assignee=person(is_active=True).pk)
    for version, values in ((2, OTHER), (3, TASK)):
        answered = ana.patch(f"/api/tasks/{task['id']}", {name: values[name]})
        assert answered.json() == ana.get(f"/api/tasks/{task['id']}").json()
        assert answered["ETag"] == ana.get(f"/api/tasks/{task['id']}")["ETag"]
        event = events_of(task["id"])[-1]
        assert event["data"]["task"] == answered.json()
        assert event["data"]["task"]["version"] == version
        ((changed, (before, after)),) = ((name, change.values()) for name, change in event["data"]["changes"].items())
        assert changed == name
        assert before != after == answered.json()[name]
    assert {**answered.json(), "version": 1, "updated_at": task["updated_at"]} == task


def test_what_is_so_already_is_not_written(committed_db):
    ana = api()
    task = ana.create(**TASK)
    written = row_version(task["id"])
    assert ana.patch(f"/api/tasks/{task['id']}", TASK).json() == task
    assert ana.patch(f"/api/tasks/{task['id']}", {}).json() == task
    assert (row_version(task["id"]), len(events_of(task["id"]))) == (written, 1)


def test_a_task_that_is_not_there_is_not_found(committed_db):
    problem(api().patch(f"/api/tasks/{uuid.uuid4()}", {"title": "Two"}), 404)
    assert not OutboxEvent.objects.exists()


def test_changes_at_once_follow_each_other(committed_db):
    """Each event begins where the one before it ended, whoever made it."""
    ana, ben = api(), api()
    task = ana.create()

    def change(caller, name):
        for number in range(15):
            assert caller.patch(f"/api/tasks/{task['id']}", {name: f"{caller.user} {number}"}).status_code == 200

    at_once(partial(change, ana, "title"), partial(change, ben, "description"), partial(change, ben, "title"))
    documents = [event["data"] for event in events_of(task["id"])]
    assert [data["task"]["version"] for data in documents] == list(range(1, 47))
    for before, after in itertools.pairwise(documents):
        (((name, told),),) = (after["changes"].items(),)
        assert before["task"][name] == told["from"] != told["to"] == after["task"][name]
        others = {name, "version", "updated_at"}
        assert {k: v for k, v in before["task"].items() if k not in others} == {
            k: v for k, v in after["task"].items() if k not in others
        }
    assert Task.objects.get().version == 46
