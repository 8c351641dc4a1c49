"""Subtasks: the list of a parent's, and how far they are."""

import uuid

import pytest
from django.db import connection

from tasks.models import Task
from tests.api_client import api, problem, statements
from tests.console_pages import TASKS, Console, change_page
from tests.test_api_lists import links

pytestmark = pytest.mark.django_db


def family(*statuses: str) -> Task:
    parent = Task.objects.create(title="parent")
    Task.objects.bulk_create(
        Task(title=str(number), parent=parent, status=status, labels=["a"]) for number, status in enumerate(statuses)
    )
    return parent


def test_the_list_is_the_one_of_tasks_with_this_parent():
    parent, _ = family("pending", "completed", "in_progress", "pending"), family("pending")
    caller = api("viewer")
    path = f"/api/tasks/{parent.pk}/subtasks"
    same = caller.get(f"/api/tasks?parent={parent.pk}").json()
    assert [task["title"] for task in same] == ["3", "2", "1", "0"]
    assert caller.get(path).json() == caller.get(f"{path}/").json() == same
    assert [task["title"] for task in caller.get(f"{path}?status=pending&ordering=created_at").json()] == ["0", "3"]
    assert caller.get(f"{path}?fields=title&status=completed").json() == [{"title": "1"}]
    first = caller.get(f"{path}?limit=3&label=a")
    assert f"/api/tasks/{parent.pk}/subtasks?limit=3&label=a&cursor=" in links(first)["next"]
    assert [task["title"] for task in caller.get(links(first)["next"]).json()] == ["0"]


def test_a_task_without_subtasks_has_an_empty_list_and_what_is_no_task_has_none():
    parent = family()
    caller = api("viewer")
    assert caller.get(f"/api/tasks/{parent.pk}/subtasks").json() == []
    for key in (uuid.UUID(int=7), "x"):
        problem(caller.get(f"/api/tasks/{key}/subtasks"), 404)
    for query in ("parent=none", f"parent={uuid.UUID(int=7)}", "state=x", "limit=0"):
        errors = problem(caller.get(f"/api/tasks/{parent.pk}/subtasks?{query}"), 400)["errors"]
        assert [error["parameter"] for error in errors] == [query.partition("=")[0]]


def test_progress_is_of_the_present_and_no_part_of_the_task():
    parent, childless = family("pending", "completed", "in_progress", "completed"), family()
    caller = api("member")
    path = f"/api/tasks/{parent.pk}"
    response = caller.get(f"{path}?expand=progress")
    assert response.json() == caller.get(path).json() | {"progress": {"completed": 2, "total": 4}}
    assert "ETag" not in response
    assert caller.get(f"{path}?fields=title&expand=progress").json() == {
        "progress": {"completed": 2, "total": 4}, "title": "parent"
    }  # fmt: skip
    listed = caller.get("/api/tasks?parent=none&expand=progress&fields=id").json()
    assert [task["progress"] for task in listed] == [{"completed": 0, "total": 0}, {"completed": 2, "total": 4}]
    Task.objects.filter(parent=parent, title="0").update(status="completed")
    assert caller.get(f"{path}?expand=progress").json()["progress"] == {"completed": 3, "total": 4}
    parent.refresh_from_db()
    assert (parent.version, childless.version) == (1, 1)


@pytest.mark.parametrize("count", [1, 30])
def test_one_statement_however_many(count):
    parents = [family(*["pending"] * count) for _ in range(count)]
    caller = api("viewer")
    for path in (
        f"/api/tasks/{parents[0].pk}/subtasks?expand=progress",
        f"/api/tasks/{parents[0].pk}?expand=progress",
        "/api/tasks?expand=progress&limit=500",
    ):
        with statements() as found:
            assert caller.get(path).status_code == 200
        assert len(found) == 2, found  # the first is the token's


def test_progress_is_counted_by_the_index_of_parents():
    family(*["pending"] * 3)
    Task.objects.bulk_create(Task(title="x") for _ in range(3000))
    with statements() as found:
        api("viewer").get("/api/tasks?expand=progress&limit=50")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks_task")
        cursor.execute(f"EXPLAIN {found[-1]}")
        assert "task_parent" in "\n".join(line for (line,) in cursor)


def test_the_console_shows_progress_in_list_and_form():
    parent = family("pending", "completed", "completed")
    for role in ("member", "viewer"):
        console = Console(role)
        for page in (TASKS, change_page(parent)):
            html = console.get(page).content.decode()
            assert html.count("2 of 3 completed") == 1
            assert f"{TASKS}?parent__id__exact={parent.pk}" in html
        assert [task.title for task in console.rows(f"{TASKS}?parent__id__exact={parent.pk}")] == ["2", "1", "0"]
