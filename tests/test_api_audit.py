"""`/api/tasks/{id}/history` and `/api/audit`: the log as programs read it."""

import json
import uuid

import pytest
from django.utils import timezone

from audit.api import search
from audit.models import Entry
from tasks.models import OutboxEvent
from tests.api_client import Api, api, problem, statements
from tests.test_api_lists import links

pytestmark = pytest.mark.django_db


def record() -> None:
    """Puts what waits in the outbox into the log, as the recorder would, without a broker between."""
    seq = Entry.objects.count()
    for row in OutboxEvent.objects.order_by("id"):
        seq += 1
        event = json.loads(bytes(row.payload))
        Entry.objects.create(
            seq=seq, event_id=row.event_id, event_type=event["type"], subject_type=row.subject_type, subject_id=row.subject_id,
            version=row.version, task_id=row.task_id, actor_id=event["actorid"], actor_name=event["actorname"],
            actor_type=event["actortype"], request_id=event.get("requestid"), event_data=event, occurred_at=event["time"],
            processed_at=timezone.now(), topic="task-events", partition=0, offset=seq, digest=bytes(row.digest), leaf_hash=b"",
        )  # fmt: skip
    OutboxEvent.objects.all().delete()


def get(caller: Api, path: str) -> list[dict]:
    response = caller.get(path)
    assert response.status_code == 200, response.content
    return response.json()


@pytest.fixture
def writer():
    return api("member")


def test_a_history_is_newest_first_and_outlives_its_task(writer):
    task = writer.create(title="one", labels=["a"])
    path = f"/api/tasks/{task['id']}"
    assert get(writer, f"{path}/history") == []
    record()
    writer.patch(path, {"status": "completed"}, X_Change_Reason="done", X_Request_ID="req-1")
    record()
    writer.create(title="another")
    writer.send("DELETE", path)
    record()
    for end in ("", "/"):
        deleted, updated, created = get(writer, f"{path}/history{end}")
    assert [entry["event_type"] for entry in (deleted, updated, created)] == ["task.deleted", "task.updated", "task.created"]
    assert [entry["version"] for entry in (deleted, updated, created)] == [3, 2, 1]
    assert set(updated) == {
        "seq", "event_id", "event_type", "subject", "task_id", "version", "actor", "request_id", "reason", "changes", "event_data",
        "occurred_at", "processed_at", "digest", "redacted_by",
    }  # fmt: skip
    assert updated["actor"] == {"id": str(writer.user.pk), "name": writer.user.username, "type": "user"}
    assert updated["changes"]["status"] == {"from": "pending", "to": "completed"}
    assert (updated["reason"], updated["request_id"]) == ("done", "req-1")
    assert (updated["subject"], updated["task_id"]) == (f"task/{task['id']}", task["id"])
    entry = Entry.objects.get(seq=updated["seq"])
    assert updated["event_data"] == entry.event_data
    assert updated["digest"] == bytes(entry.digest).hex()
    assert updated["occurred_at"] == updated["event_data"]["time"]
    assert deleted["changes"] == {}


def test_a_history_has_pages(writer):
    task = writer.create()
    path = f"/api/tasks/{task['id']}"
    for n in range(4):
        writer.patch(path, {"title": str(n)})
    record()
    first = writer.get(f"{path}/history?limit=2")
    assert [entry["version"] for entry in first.json()] == [5, 4]
    second = writer.get(links(first)["next"])
    assert [entry["version"] for entry in second.json()] == [3, 2]
    assert [entry["version"] for entry in get(writer, links(second)["prev"])] == [5, 4]
    assert [entry["version"] for entry in get(writer, links(second)["next"])] == [1]
    assert "limit" in problem(writer.get(f"{path}/history?actor=me"), 400)["detail"]


def test_no_task_has_no_history(writer):
    for key in (uuid.uuid4(), "x"):
        problem(writer.get(f"/api/tasks/{key}/history"), 404)
    problem(writer.post({}, f"/api/tasks/{uuid.uuid4()}/history"), 405)


def test_the_log_is_searched_by_task_actor_and_type(writer):
    auditor, other = api("auditor"), api("member")
    mine, theirs = writer.create(), other.create()
    writer.patch(f"/api/tasks/{theirs['id']}", {"title": "x"})
    record()

    def seqs(query):
        return [entry["seq"] for entry in get(auditor, f"/api/audit?{query}")]

    assert seqs("") == [3, 2, 1]
    assert seqs(f"task={mine['id']}") == [1]
    assert seqs(f"task={mine['id']},{theirs['id']}") == [3, 2, 1]
    assert seqs(f"actor={writer.user.pk}") == [3, 1]
    assert seqs("actor=me") == []
    assert seqs(f"actor={writer.user.pk},{other.user.pk}") == [3, 2, 1]
    assert seqs("type=task.updated&since=2026-01-01T00:00:00Z") == [3]
    assert seqs("type=task.updated,task.created,task.deleted&since=2026-01-01T00:00:00Z") == [3, 2, 1]
    assert seqs(f"type=task.created&actor={other.user.pk}&task={theirs['id']}") == [2]
    assert seqs("actor=system:seed_demo") == []
    event_id = get(auditor, "/api/audit?limit=1")[0]["event_id"]
    assert auditor.get(f"/api/audit/{event_id}").json()["seq"] == 3
    for key in (uuid.uuid4(), "7"):
        problem(auditor.get(f"/api/audit/{key}"), 404)


@pytest.mark.parametrize(
    ("query", "valid"),
    [("task=7", "id of a task"), ("type=task.done", "task.created, task.updated, task.deleted"), ("actor=", "actor"),
     ("actor=a%00b", "actor"), ("sort=1", "event, task, actor, type"), ("cursor=x", "Link"), ("limit=0", "500")],
)  # fmt: skip
def test_what_is_not_known_is_named_with_what_is(query, valid):
    assert valid in problem(api("auditor").get(f"/api/audit?{query}"), 400)["detail"]


def test_a_search_without_an_index_looks_at_a_window_and_leads_on(writer, monkeypatch):
    """However rare the actor: a page costs the same, and following the links loses and repeats nothing."""
    monkeypatch.setattr(search, "WINDOW", 7)
    auditor, rare = api("auditor"), api("member")
    for n in range(40):
        (rare if n in {0, 1, 17, 38} else writer).create(title=str(n))
    record()
    for actor, limit, expected in ((rare, 1, [39, 18, 2, 1]), (rare, 50, [39, 18, 2, 1]), (writer, 3, None)):
        expected = expected or [seq for seq in range(40, 0, -1) if seq not in {39, 18, 2, 1}]
        path, found, pages = f"/api/audit?actor={actor.user.pk}&since=2026-01-01T00:00:00Z&limit={limit}", [], 0
        while path:
            last, response, pages = path, auditor.get(path), pages + 1
            assert pages < 100, "the links lead round in a circle"
            found += [entry["seq"] for entry in response.json()]
            path = links(response).get("next")
        assert found == expected
        assert pages <= 6 + len(expected)
        path, back = last, []
        while path and len(back) <= len(expected):
            response = auditor.get(path)
            back = [entry["seq"] for entry in response.json()] + back
            path = links(response).get("prev")
        assert back == expected


def test_a_page_of_the_log_costs_the_same_for_few_and_many_rows(writer):
    auditor = api("auditor")
    for rows in (1, 30):
        for n in range(rows):
            writer.create(title=str(n))
        record()
        for path, cost in (("/api/audit", 2), ("/api/audit?actor=me", 2), (f"/api/audit/{Entry.objects.first().event_id}", 2)):
            with statements() as found:
                get(auditor, path)
            assert len(found) == cost, found
