"""What is shown of a task, and how many there are: `fields`, `expand`, `Prefer: count`."""

import uuid

import pytest
from django.contrib.auth.models import User
from django.db import connection

from tasks.api.members import FIELDS, MOST_WITH_SUBTASKS, SUBTASKS
from tasks.models import Task
from tests.api_client import api, links, problem, statements

pytestmark = pytest.mark.django_db


@pytest.fixture
def caller():
    found = api()
    User.objects.filter(pk=found.user.pk).update(first_name="Ana", last_name="Horvat")
    found.task = found.create(title="big", assignee=found.user.pk, labels=["b", "a"])
    found.path = f"/api/tasks/{found.task['id']}"
    return found


def both(caller, query: str) -> list[dict]:
    """What the list and the one task show, each by one statement and without an ETag."""
    shown = []
    for path in ("/api/tasks", caller.path):
        with statements() as found:
            response = caller.get(f"{path}?{query}")
        assert response.status_code == 200, response.content
        assert len(found) == 2, "authentication and the read"
        assert "ETag" not in response
        shown.append(response.json())
    return [next(task for task in shown[0] if task.get("title", "big") == "big"), shown[1]]


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_shown_by_itself_as_in_the_whole(caller, name):
    assert both(caller, f"fields={name}") == [{name: caller.task[name]}] * 2


def test_fields_are_shown_in_the_order_of_the_document(caller):
    for task in both(caller, "fields=title,id,assignee"):
        assert list(task) == ["assignee", "id", "title"]


def test_the_assignee_in_full(caller):
    person = {"id": str(caller.user.pk), "name": caller.user.username, "full_name": "Ana Horvat"}
    assert both(caller, "expand=assignee") == [{**caller.task, "assignee": person}] * 2
    assert both(caller, "fields=title&expand=assignee") == [{"title": "big", "assignee": person}] * 2


def test_labels_in_full_in_the_order_of_the_task(caller):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_label (id, name, colour, description, version, updated_at) "
            "VALUES (uuidv7(), 'a', '#aa0000', 'first', 1, now())"
        )
    labels = [{"colour": None, "description": "", "name": "b"}, {"colour": "#aa0000", "description": "first", "name": "a"}]
    assert both(caller, "expand=labels") == [{**caller.task, "labels": labels}] * 2
    other = caller.create(title="other")
    assert caller.get(f"/api/tasks/{other['id']}?expand=labels").json()["labels"] == []


def test_subtasks_are_whole_the_oldest_first_and_bounded(caller):
    assert both(caller, "expand=subtasks") == [{**caller.task, "subtasks": []}] * 2
    made = [caller.create(title=f"step {number}", parent=caller.task["id"]) for number in range(3)]
    assert both(caller, "expand=subtasks") == [{**caller.task, "subtasks": made}] * 2
    Task.objects.bulk_create(Task(title="more", parent_id=caller.task["id"]) for _ in range(SUBTASKS))
    subtasks = caller.get(f"{caller.path}?expand=subtasks").json()["subtasks"]
    assert len(subtasks) == SUBTASKS
    assert subtasks[:3] == made


@pytest.mark.parametrize(
    ("query", "parameter", "told"),
    [
        ("fields=titel", "fields", "did you mean title?"),
        ("fields=", "fields", "one of assignee, category"),
        ("expand=subtask", "expand", "did you mean subtasks?"),
        ("expand=parent", "expand", "one of assignee, labels, progress"),
        ('fields="a', "fields", "double quotes"),
        ("field=title", "field", "did you mean fields?"),
    ],
)
def test_what_cannot_be_shown_is_named_with_what_can(caller, query, parameter, told):
    for path in ("/api/tasks", caller.path):
        (error,) = problem(caller.get(f"{path}?{query}"), 400)["errors"]
        assert error["parameter"] == parameter
        assert told in error["detail"], error


def test_a_page_with_subtasks_is_shorter(caller):
    (error,) = problem(caller.get(f"/api/tasks?expand=subtasks&limit={MOST_WITH_SUBTASKS + 1}"), 400)["errors"]
    assert error["parameter"] == "limit"
    assert caller.get(f"/api/tasks?expand=subtasks&limit={MOST_WITH_SUBTASKS}").status_code == 200


def test_members_of_what_is_not_there_or_past(caller):
    problem(caller.get(f"/api/tasks/{uuid.uuid4()}?fields=title"), 404)
    (error,) = problem(caller.get(f"{caller.path}?version=1&fields=title"), 400)["errors"]
    assert error["parameter"] == "fields"


@pytest.mark.parametrize("query", ["fields=title", "expand=assignee", "version=1"])
def test_if_none_match_is_checked_where_there_is_no_etag_too(caller, query):
    assert "If-None-Match" in problem(caller.get(f"{caller.path}?{query}", If_None_Match="*1"), 400)["detail"]


def test_a_count_is_made_for_who_prefers_one(caller):
    Task.objects.bulk_create(Task(title=str(number), priority=["low", "high"][number % 2]) for number in range(6))
    for query, number in {"": 7, "priority=high": 3, "status=completed": 0, "label=a&assignee=me": 1,
                          "overdue=true&status=completed": 0}.items():  # fmt: skip
        with statements() as found:
            response = caller.get(f"/api/tasks?limit=1&{query}", Prefer="wait=1, count=exact")
        assert len(found) == 3
        assert (response["X-Total-Count"], response["Preference-Applied"]) == (str(number), "count=exact")
    second = caller.get(links(caller.get("/api/tasks?limit=1"))["next"], Prefer="count=exact")
    assert second["X-Total-Count"] == "7", "of the list, not of what is left of it"
    for response in (second, caller.get("/api/tasks"), caller.get("/api/tasks", Prefer="count=estimated")):
        assert "Prefer" in response["Vary"].split(", ")


def test_an_estimate_comes_of_the_statistics_and_of_no_scan(caller):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_task (title, priority) SELECT 'many', (ARRAY['low', 'high'])[1 + n % 2] "
            "FROM generate_series(1, 2000) n"
        )
        cursor.execute("ANALYZE tasks_task")
    for query, number in {"": 2000, "priority=high": 1000}.items():
        with statements() as found:
            response = caller.get(f"/api/tasks?{query}", Prefer='count="estimated"')
        assert found[1].startswith("EXPLAIN (FORMAT JSON) SELECT")
        assert response["Preference-Applied"] == "count=estimated"
        assert abs(int(response["X-Total-Count"]) - number) < number / 10


@pytest.mark.parametrize("header", [None, "count", "count=all", "return=minimal", "counts=exact", "count=;exact"])
def test_nothing_is_counted_for_anybody_else(caller, header):
    with statements() as found:
        response = caller.get("/api/tasks", **({"Prefer": header} if header else {}))
    assert len(found) == 2
    assert "X-Total-Count" not in response
    assert "Preference-Applied" not in response


def test_a_count_that_takes_too_long_says_what_to_do_instead(caller):
    def slow(execute, sql, parameters, many, context):
        return execute(sql.replace("count(*)", "count(*), pg_sleep(5)"), parameters, many, context)

    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 100")
    with connection.execute_wrapper(slow):
        document = problem(caller.get("/api/tasks", Prefer="count=exact"), 503)
    assert "count=estimated" in document["detail"]
    assert document["type"].endswith("database-timeout")
