"""Which status may follow which: one rule, kept by the API, the console and the database."""

import itertools

import pytest
from django.db import IntegrityError, connection, transaction

from tasks import transitions
from tasks.models import Status, Task
from tests.api_client import api, problem
from tests.console_pages import Console, change_page
from tests.test_capture import events_of

pytestmark = pytest.mark.django_db

PAIRS = list(itertools.product(Status.values, repeat=2))
REFUSED = [("completed", "pending")]


def test_the_rule_is_the_one_that_was_agreed():
    assert [pair for pair in PAIRS if transitions.refusal(*pair)] == REFUSED
    assert transitions.refusal("completed", "pending") == "a task that is completed cannot become pending; expected in_progress"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_by_the_api(before, after, method):
    caller = api("member")
    path = f"/api/tasks/{caller.create(status=before)['id']}"
    response = caller.send(method, path, {"status": after, "title": "changed"})
    if (before, after) in REFUSED:
        refused = problem(response, 409)
        assert refused["type"].endswith("/illegal-transition")
        assert [error["pointer"] for error in refused["errors"]] == ["#/status"]
        assert "expected in_progress" in refused["detail"]
        assert caller.get(path).json()["version"] == 1
    else:
        task = response.json()
        assert (response.status_code, task["status"], task["version"]) == (200, after, 2)
        assert (task["completed_at"] is not None) == (after == "completed")


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_by_the_console(before, after):
    task = Task.objects.create(title="a task", status=before)
    console, page = Console("member"), change_page(task)
    refused = (before, after) in REFUSED
    response = console.send(page, console.form(page) | {"status": after}, status=200 if refused else 302)
    task.refresh_from_db()
    assert task.status == (before if refused else after)
    if refused:
        assert "cannot become pending" in str(response.context["adminform"].form.errors["status"])


@pytest.mark.parametrize("by", ["raw SQL", "save", "update"])
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_by_whatever_else_the_database_is_written_with(before, after, by):
    task = Task.objects.create(title="a task", status=before)

    def write():
        with transaction.atomic(), connection.cursor() as cursor:
            if by == "raw SQL":
                cursor.execute("UPDATE tasks_task SET status = %s", [after])
            elif by == "update":
                Task.objects.update(status=after)
            else:
                task.status = after
                task.save()

    if (before, after) in REFUSED:
        with pytest.raises(IntegrityError) as error:
            write()
        assert error.value.__cause__.diag.constraint_name == "task_status_transition"
    else:
        write()
    assert Task.objects.get().status == (before if (before, after) in REFUSED else after)


def test_completed_at_is_of_the_completion_for_as_long_as_it_lasts():
    task = Task.objects.create(title="a task")
    task.status = Status.COMPLETED
    task.save()
    completed = task.completed_at
    assert completed == task.updated_at
    task.title = "renamed"
    task.save()
    assert task.completed_at == completed < task.updated_at
    for value in ("now()", "NULL", "'2001-01-01T00:00Z'"):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"UPDATE tasks_task SET completed_at = {value}")
    task.status = Status.IN_PROGRESS
    task.save()
    assert task.completed_at is None
    Task.objects.update(status=Status.COMPLETED)
    task.refresh_from_db()
    assert task.completed_at == task.updated_at > completed
    assert [set(event["data"]["changes"]) for event in events_of(task.pk)[1:]] == [
        {"status", "completed_at"}, {"title"}, {"status", "completed_at"}, {"status", "completed_at"}
    ]  # fmt: skip


def test_an_import_says_when_a_task_was_completed():
    task = Task.objects.create(title="a task", status="completed", completed_at="2001-01-01T00:00Z")
    task.refresh_from_db()
    assert task.completed_at.year == 2001
