"""What the triggers keep of which task bears what label, so that a list of it is read in its order (migration 0019)."""

from datetime import UTC, datetime
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.db import connection

from tasks import label_changes
from tasks.labels import Label
from tasks.models import Status, Task
from tests.api_client import api, statements
from tests.test_capture import meanwhile
from tests.test_watched import rows, run

LABELLED = "SELECT task_id, label, task_created_at FROM tasks_labelled ORDER BY task_id, label"
TRUE = """SELECT DISTINCT id, label COLLATE "C", created_at FROM tasks_task, unnest(labels) label ORDER BY id, label COLLATE "C" """
FILL = import_module("tasks.migrations.0020_labelled_fill")


@pytest.fixture
def labelled(db) -> tuple[Task, Task]:
    """A task with a subtask that bears a label of its own beside the same one."""
    parent = Task.objects.create(title="parent", labels=["bug", "ü, \"'"])
    child = Task.objects.create(title="child", labels=["bug", "Bug"], parent=parent)
    Task.objects.create(title="none")
    assert len(rows(LABELLED)) == 4
    return parent, child


def _relabel(task: Task, *labels: str) -> None:
    task.labels = list(labels)
    task.save()


@pytest.mark.parametrize(
    "change",
    [
        lambda parent, child: Task.objects.bulk_create([Task(title="a", labels=["a", "bug"]), Task(title="b", labels=["b"])]),
        lambda parent, child: run("INSERT INTO tasks_task (title, labels) VALUES ('twice', '[2:4]={bug,a,bug}')"),
        lambda parent, child: _relabel(parent, "defect", "bug"),
        lambda parent, child: _relabel(child),
        lambda parent, child: run("UPDATE tasks_task SET labels = '{a,a}'"),
        lambda parent, child: Task.objects.update(created_at=datetime(2026, 1, 2, tzinfo=UTC)),
        lambda parent, child: run("UPDATE tasks_task SET labels = '{bug,a}', created_at = now() + interval '1 day'"),
        lambda parent, child: label_changes.delete(Label.objects.create(name="bug")),
        lambda parent, child: parent.delete(),
        lambda parent, child: run("DELETE FROM tasks_task WHERE id = %s", child.pk),
    ],
    ids=["several", "twice by SQL", "relabelled", "none any more", "relabelled by SQL", "another time", "both by SQL", "label gone",
         "with its subtask", "by SQL"],
)  # fmt: skip
def test_they_follow_whoever_changes_what(labelled, change):
    before = rows(LABELLED)
    assert before == rows(TRUE)
    change(*labelled)
    assert rows(LABELLED) == rows(TRUE) != before


def test_what_changes_no_label_writes_none(labelled):
    places = "SELECT xmin::text, ctid::text FROM tasks_labelled ORDER BY ctid"
    before = rows(places)
    Task.objects.update(title="other", status="completed", labels=["bug"])
    assert rows(places) != before
    before = rows(places)
    Task.objects.update(title="another", status="in_progress", labels=["bug"])
    assert rows(places) == before


@pytest.mark.parametrize(
    "query", ["label=unheard-of", "label_all=unheard-of", "label=unheard-of&status=pending", "label=unheard-of&ordering=updated_at"]
)
def test_a_label_that_no_statistics_have_met_is_found_by_its_name(db, query):
    """And its tasks by their keys: not by a walk through all tasks, of which PostgreSQL would take many to bear it."""
    caller = api()
    Task.objects.bulk_create([Task(title="a task", labels=["bug"], status=status) for status in Status.values * 10])
    run("ANALYZE tasks_task, tasks_labelled")
    # As if the page of each held a million rows.
    run("UPDATE pg_class SET relpages = 1, reltuples = 1000000 WHERE relname IN ('tasks_task', 'tasks_labelled')")
    with statements() as made:
        assert caller.get(f"/api/tasks?{query}").json() == []
    plan = "\n".join(line for (line,) in rows(f"EXPLAIN {made[-1]}"))
    assert "on tasks_labelled" in plan, plan
    assert "tasks_task_pkey" in plan, plan
    assert "Seq Scan on tasks" not in plan, plan


def test_what_was_borne_before_the_triggers_is_there_too(labelled, monkeypatch):
    monkeypatch.setattr(FILL, "BATCH", FILL.BATCH.replace("LIMIT 1000", "LIMIT 1"))
    before = rows(LABELLED)
    run("DELETE FROM tasks_labelled WHERE label = 'bug'")
    for _ in range(2):
        FILL.fill(None, SimpleNamespace(connection=connection))
    assert rows(LABELLED) == before


def test_labels_that_change_while_the_old_ones_are_filled_in_are_right(committed_db):
    Task.objects.create(title="a", labels=["bug", "old"])
    run("DELETE FROM tasks_labelled")
    change = "UPDATE tasks_task SET labels = '{bug,new}'"
    meanwhile(committed_db, change, (), lambda: FILL.fill(None, SimpleNamespace(connection=connection)))
    assert [label for _, label, _ in rows(LABELLED)] == ["bug", "new"]


def test_a_task_that_loses_the_label_meanwhile_is_not_changed_for_it(committed_db):
    label, task = Label.objects.create(name="bug"), Task.objects.create(title="a", labels=["bug"])
    meanwhile(committed_db, "UPDATE tasks_task SET labels = '{other}'", (), lambda: label_changes.delete(label))
    task.refresh_from_db()
    assert (task.labels, task.version) == (["other"], 2)
