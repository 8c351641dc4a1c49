"""What a request that writes many tasks costs the web role in memory, its answer kept too, and what is too much at once."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from django.db import connection

from tasks.api import bulk
from tasks.models import DESCRIPTION_LENGTH, OutboxEvent, Task
from tests.api_client import api, pointers
from tests.test_api_bulk import delete, done, send, update
from tests.web_role import web_role


def highest(process) -> float:
    """Bytes that the process has had resident at most (`VmHWM`, proc(5))."""
    line = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_the_largest_requests_leave_a_web_worker_below_120_mb(committed_db, tmp_path):
    caller, count = api("member"), 1_000
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_task (title, description) SELECT 'x', repeat('a', %s) FROM generate_series(1, %s) RETURNING id",
            [bulk.MOST_BYTES // count - 40, count],
        )
        keys = [str(key) for (key,) in cursor.fetchall()]

    def change(number: int) -> None:
        operations = [{"op": "update", "id": key, "task": {"priority": ["low", "high"][number % 2]}} for key in keys]
        headers = {**caller.headers, "Idempotency-Key": str(uuid.uuid4())}
        status, _, body = web.call("POST", "/api/tasks/bulk", {"operations": operations}, headers=headers, timeout=60)
        assert (status, len(body) > bulk.MOST_BYTES) == (200, True), body[:500]

    with web_role(tmp_path, WEB_CONCURRENCY="1") as web, ThreadPoolExecutor(2) as at_once:
        list(at_once.map(change, range(6)))
        (worker,) = web.workers()
        assert highest(worker) < 120e6
        assert worker.memory_info().rss < 110e6


def test_a_parent_is_deleted_with_however_many_subtasks(committed_db, tmp_path):
    """1,500 of the longest, 30 MB: the database deletes them and writes their events."""
    caller, count = api("member"), 1_500
    parent = caller.create()["id"]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_task (title, description, parent_id) SELECT 'x', repeat('a', %s), %s FROM generate_series(1, %s)",
            [DESCRIPTION_LENGTH, parent, count],
        )
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        (worker,) = web.workers()
        before = highest(worker)
        assert web.call("DELETE", f"/api/tasks/{parent}", headers=caller.headers, timeout=60)[0] == 204
        assert highest(worker) < before + 15e6
    assert not Task.objects.exists()
    deleted = OutboxEvent.objects.filter(version=2).order_by("pk")
    assert deleted.count() == count + 1
    event = orjson.loads(bytes(deleted.last().payload))
    assert (event["type"], event["actorid"]) == ("task.deleted", str(caller.user.pk))


@pytest.mark.django_db
@pytest.mark.parametrize(("text", "size"), [("a", 1), ("\x01", 6), ("é", 2), ('"', 2), ("🎈", 4)])
@pytest.mark.parametrize("atomic", [True, False])
def test_tasks_that_are_too_long_together_are_not_changed_at_once(monkeypatch, text, size, atomic):
    """A character counts as JSON has it in the answer and the event."""
    caller = api("member")
    tasks = [caller.create(description=text * 1_000) for _ in range(3)]
    monkeypatch.setattr(bulk, "MOST_BYTES", 2 * 1_000 * size + 200)
    refused = send(caller, *[update(task, priority="high") for task in tasks[:2]], delete(tasks[2]), atomic=atomic)
    assert pointers(refused) == ["#/operations"]
    assert f"{bulk.MOST_BYTES} at most" in refused.json()["errors"][0]["detail"]
    assert set(Task.objects.values_list("version", flat=True)) == {1}
    assert [result["status"] for result in done(caller, *[update(task, title="y") for task in tasks[:2]])] == [200, 200]
