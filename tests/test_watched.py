"""What the triggers keep of who watches what, so that a list of it is read in its order (migration 0014)."""

from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from tasks.around import Watcher
from tasks.models import Task
from tests.api_client import person
from tests.test_capture import meanwhile

WATCHED = "SELECT task_id, user_id, task_created_at FROM tasks_watched ORDER BY task_created_at, user_id"
TRUE = """SELECT w.task_id, w.user_id, t.created_at FROM tasks_watcher w JOIN tasks_task t ON t.id = w.task_id
ORDER BY t.created_at, w.user_id"""


def rows(sql: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def run(sql: str, *parameters) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


@pytest.fixture
def watched(db) -> tuple[Task, Task]:
    """Two tasks, the first watched by two people, the second by one of them."""
    ana, bo = person(), person()
    tasks = Task(title="older", created_at=datetime(2026, 1, 1, tzinfo=UTC)), Task(title="younger")
    for task in tasks:
        task.save()
    Watcher.objects.bulk_create([Watcher(task=tasks[0], user=ana), Watcher(task=tasks[0], user=bo)])
    Watcher.objects.create(task=tasks[1], user=ana)
    assert len(rows(WATCHED)) == 3
    return tasks


@pytest.mark.parametrize(
    "change",
    [
        lambda older, younger: Watcher.objects.first().delete(),
        lambda older, younger: Watcher.objects.filter(task=older).delete(),
        lambda older, younger: older.delete(),
        lambda older, younger: run("DELETE FROM tasks_task WHERE id = %s", younger.pk),
        lambda older, younger: run("INSERT INTO tasks_watcher (task_id, user_id) VALUES (%s, %s)", younger.pk, person().pk),
        lambda older, younger: run("UPDATE tasks_task SET created_at = now() + interval '1 day' WHERE id = %s", older.pk),
        lambda older, younger: Task.objects.update(created_at=datetime(2026, 1, 2, tzinfo=UTC), title="both"),
    ],
    ids=["one", "all of a task", "a task", "a task by SQL", "a new one by SQL", "another time by SQL", "another time"],
)
def test_they_follow_whoever_changes_what(watched, change):
    before = rows(WATCHED)
    assert before == rows(TRUE)
    change(*watched)
    assert rows(WATCHED) == rows(TRUE) != before


def test_who_watches_again_is_there_once(watched):
    before = rows(WATCHED)
    watcher = Watcher.objects.first()
    task, user = watcher.task_id, watcher.user_id
    watcher.delete()
    Watcher.objects.create(task_id=task, user_id=user)
    assert rows(WATCHED) == before


def test_what_was_watched_before_the_triggers_is_there_too(watched, monkeypatch):
    migration = import_module("tasks.migrations.0015_watched_fill")
    monkeypatch.setattr(migration, "BATCH", migration.BATCH.replace("LIMIT 1000", "LIMIT 2"))
    before = rows(WATCHED)
    run("DELETE FROM tasks_watched WHERE user_id = (SELECT min(user_id) FROM tasks_watched)")
    assert len(rows(WATCHED)) == 1
    for _ in range(2):
        migration.fill(None, SimpleNamespace(connection=connection))
    assert rows(WATCHED) == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["watched first", "changed first"])
def test_who_watches_while_the_time_is_changed_has_the_new_one(committed_db, order):
    user, task = get_user_model().objects.create(username="ana"), Task.objects.create(title="a")
    moment = task.created_at + timedelta(days=1)
    acts = [
        ("INSERT INTO tasks_watcher (task_id, user_id) VALUES (%s, %s)", (task.pk, user.pk)),
        ("UPDATE tasks_task SET created_at = %s WHERE id = %s", (moment, task.pk)),
    ]

    def second():
        with psycopg.connect(committed_db) as session:
            session.execute(*acts[order[1]])

    meanwhile(committed_db, *acts[order[0]], second)
    assert rows(WATCHED) == rows(TRUE) == [(task.pk, user.pk, moment)]
