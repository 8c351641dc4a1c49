"""`/api/tasks/{id}/watchers`: who watches a task; to watch and to stop may be repeated."""

import uuid

import pytest
from django.db import connection

from tasks.models import OutboxEvent, Status, Task, Watcher
from tests.api_client import Api, api, person, problem, statements
from tests.test_api_lists import links
from tests.test_capture import commit_now, events_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def ana() -> Api:
    return api("member")


@pytest.fixture
def path(ana) -> str:
    return f"/api/tasks/{ana.create()['id']}/watchers"


def events() -> list[str]:
    commit_now()
    rows = OutboxEvent.objects.filter(subject_type="watcher").order_by("id")
    return [event["type"] for row in rows for event in events_of(row.subject_id) if event["id"] == str(row.event_id)]


def test_to_watch_and_to_stop_may_be_repeated(ana, path):
    first = ana.send("PUT", f"{path}/me")
    assert first.status_code == 201
    again = ana.send("PUT", f"{path}/{ana.user.pk}/")
    assert (again.status_code, again.json()) == (200, first.json())
    assert ana.get(path).json() == [first.json()] == Watcher.documents(Watcher.objects.all())
    assert first.json()["user"] == {"id": str(ana.user.pk), "name": ana.user.username}
    for _ in range(2):
        assert ana.send("DELETE", f"{path}/me").status_code == 204
    assert ana.get(path).json() == []
    assert ana.send("PUT", f"{path}/me").json()["id"] != first.json()["id"]
    assert events() == ["watcher.created", "watcher.deleted", "watcher.created"]
    assert Task.objects.get().version == 1


def test_a_reader_watches_herself_and_names_nobody_else(ana, path):
    viewer = api("viewer")
    assert viewer.send("PUT", f"{path}/me").status_code == 201
    assert viewer.send("PUT", f"{path}/{viewer.user.pk}").status_code == 200
    for method in ("PUT", "DELETE"):
        assert "nobody else" in problem(viewer.send(method, f"{path}/{ana.user.pk}"), 403)["detail"]
    assert ana.send("DELETE", f"{path}/{viewer.user.pk}").status_code == 204


def test_who_is_not_there_and_who_is_deactivated(ana, path):
    gone = person(is_active=False)
    assert "no active person" in problem(ana.send("PUT", f"{path}/{gone.pk}"), 404)["detail"]
    Watcher.objects.create(task=Task.objects.get(), user=gone)
    assert ana.send("PUT", f"{path}/{gone.pk}").status_code == 200
    assert ana.send("DELETE", f"{path}/{gone.pk}").status_code == 204
    problem(ana.send("PUT", f"{path}/999999999"), 404)
    for method in ("PUT", "DELETE"):
        for wrong in ("you", "-1", "0", "9" * 20, "1.0", "٣"):
            problem(ana.send(method, f"{path}/{wrong}"), 404)
        problem(ana.send(method, f"/api/tasks/{uuid.uuid4()}/watchers/me"), 404)
    problem(ana.get(f"/api/tasks/{uuid.uuid4()}/watchers"), 404)
    problem(ana.get(f"{path}?page=1"), 400)


def test_pages_lead_through_all_of_them(ana, path):
    people = [person() for _ in range(5)]
    Watcher.objects.bulk_create([Watcher(task=Task.objects.get(), user=one) for one in people])
    first = ana.get(f"{path}?limit=3")
    second = ana.get(links(first)["next"])
    found = [row["user"]["name"] for row in first.json() + second.json()]
    assert sorted(found) == sorted(one.username for one in people)
    assert [row["id"] for row in ana.get(links(second)["prev"]).json()] == [row["id"] for row in first.json()]


def test_the_list_of_what_somebody_watches(ana):
    bo = api("viewer")
    tasks = [ana.create(title=f"No. {number}", priority="high" if number % 2 else "low") for number in range(6)]
    for watcher, numbers in ((ana, (0, 1, 2, 3)), (bo, (3, 5))):
        for number in numbers:
            watcher.send("PUT", f"/api/tasks/{tasks[number]['id']}/watchers/me")

    def listed(query: str) -> list[int]:
        return [int(task["title"][4:]) for task in ana.get(f"/api/tasks?{query}").json()]

    assert listed("watching=me") == [3, 2, 1, 0]
    assert listed(f"watching={bo.user.pk}") == [5, 3]
    assert listed(f"watching=me,{bo.user.pk}") == [5, 3, 2, 1, 0]
    assert listed(f"watching=me&watching={bo.user.pk}&priority=high&ordering=created_at") == [1, 3, 5]
    assert listed("watching=me&assignee=me") == listed("watching=999999999999999999") == []
    assert listed("watching=me&q=no&ordering=created_at") == sorted(listed("watching=me&q=no")) == [0, 1, 2, 3]
    counted = ana.get(f"/api/tasks?watching=me,{bo.user.pk}&priority=high", Prefer="count=exact")
    assert counted["X-Total-Count"] == "3"
    first = ana.get("/api/tasks?watching=me&limit=3")
    assert [task["title"] for task in ana.get(links(first)["next"]).json()] == ["No. 0"]
    for wrong in ("none", "you", "", "1,x"):
        assert "watching" in problem(ana.get(f"/api/tasks?watching={wrong}"), 400)["detail"]


def test_the_list_of_what_somebody_watches_begins_with_them(ana):
    """It is as dear as a page of what they watch, in another order at most as all of it, and never as the table of tasks."""
    bo = person()
    tasks = Task.objects.bulk_create([Task(title="of others", status=status) for status in Status.values * 10])
    Watcher.objects.bulk_create([Watcher(task=task, user=bo) for task in tasks])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks_task, tasks_watched")
    by = {
        "": "tasks_watched_by",
        "&created_before=2026-01-01T00:00:00Z": "task_created_at < '2026",
        "&ordering=updated_at": "tasks_watched",
    }
    for query, shown in by.items():
        with statements() as made:
            assert ana.get(f"/api/tasks?watching=me{query}").json() == []
        with connection.cursor() as cursor:
            # As if the only page of tasks held a million of them, and that of what is watched too.
            cursor.execute("UPDATE pg_class SET relpages = 1, reltuples = 1000000 WHERE relname IN ('tasks_task', 'tasks_watched')")
            cursor.execute(f"EXPLAIN {made[-1]}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert shown in plan, plan
        assert "tasks_task_pkey" in plan, plan
        assert "Seq Scan on tasks" not in plan, plan


def test_each_request_costs_a_constant_number_of_statements(ana, path):
    def cost(method: str, where: str) -> int:
        with statements() as made:
            assert ana.send(method, where).status_code < 300
        return len(made) - 1  # the token's

    costs = [cost("PUT", f"{path}/me"), cost("PUT", f"{path}/me"), cost("GET", path)]
    Watcher.objects.bulk_create([Watcher(task=Task.objects.get(), user=person()) for _ in range(20)])
    costs += [cost("GET", path), cost("DELETE", f"{path}/me"), cost("DELETE", f"{path}/me")]
    assert costs == [4, 2, 1, 1, 5, 2]
