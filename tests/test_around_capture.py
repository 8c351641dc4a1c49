"""Comments and watchers are captured as tasks are: promises 1 and 2 for what belongs to a task."""

import json

import psycopg
import pytest
import rfc8785
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import ProtectedError

from tasks.around import BODY_LENGTH
from tasks.models import Comment, OutboxEvent, Task, Watcher
from tests.test_capture import commit_now, events_of, run_sql, statements, types_of


@pytest.fixture
def ana(db) -> User:
    return User.objects.create(username="ana")


@pytest.fixture
def task(ana) -> Task:
    return Task.objects.create(title="One", created_by=ana)


def comments(task: Task, count: int) -> list[Comment]:
    return Comment.objects.bulk_create([Comment(task=task, author=task.created_by, body=f"No. {n}") for n in range(count)])


def test_every_path_makes_one_event_and_leaves_the_task_at_its_version(ana, task):
    comment = Comment.objects.create(task=task, author=ana, body="first")
    comment.body = "second"
    comment.save()
    Comment.objects.filter(task=task).update(body="third")
    run_sql("UPDATE tasks_comment SET body = 'fourth'")
    comment.refresh_from_db()
    comment.body = "fifth"
    Comment.objects.bulk_update([comment], ["body"])
    key = comment.pk
    Comment.objects.filter(pk=key).delete()
    commit_now()
    made = events_of(key)
    assert [event["type"] for event in made] == ["comment.created", *["comment.updated"] * 4, "comment.deleted"]
    assert [event["data"]["comment"]["body"] for event in made] == ["first", "second", "third", "fourth", "fifth", "fifth"]
    assert {(event["subject"], event["taskid"]) for event in made} == {(f"comment/{key}", str(task.pk))}
    assert set(OutboxEvent.objects.filter(subject_id=str(key)).values_list("task_id", flat=True)) == {task.pk}
    assert made[3]["data"]["changes"] == {"body": {"from": "third", "to": "fourth"}}
    assert made[0]["data"]["comment"] == {
        "author": {"id": str(ana.pk), "name": "ana"}, "body": "first", "created_at": made[0]["time"], "id": str(key),
        "task": str(task.pk), "updated_at": made[0]["time"], "version": 1,
    }  # fmt: skip
    assert types_of(task.pk) == [(1, "task.created")]


def test_a_watcher_is_made_and_deleted(ana, task):
    first = Watcher.objects.create(task=task, user=ana)
    key = first.pk
    first.delete()
    again = Watcher.objects.create(task=task, user=ana)
    with pytest.raises(IntegrityError), transaction.atomic():
        Watcher.objects.create(task=task, user=ana)
    commit_now()
    assert types_of(key) == [(1, "watcher.created"), (2, "watcher.deleted")]
    assert types_of(again.pk) == [(1, "watcher.created")]
    event = events_of(key)[0]
    assert event["data"]["watcher"]["user"] == {"id": str(ana.pk), "name": "ana"}
    assert event["taskid"] == str(task.pk)


def test_signal_and_database_write_the_same_document(committed_db):
    ana = User.objects.create(username="añä")
    task = Task.objects.create(title="One")
    bodies = ["plain", '"\\\b\f\n\r\t\x01\x7f é😀\u2028', " " * 3 + "x" * (BODY_LENGTH - 3)]
    for body in bodies:
        Comment.objects.create(task=task, author=ana, body=body)
    Watcher.objects.create(task=task, user=ana)
    with psycopg.connect(committed_db) as session:
        for body in bodies:
            session.execute("INSERT INTO tasks_comment (task_id, author_id, body) VALUES (%s, %s, %s)", [task.pk, ana.pk, body])
        session.execute("DELETE FROM tasks_watcher")
        session.execute("INSERT INTO tasks_watcher (task_id, user_id) VALUES (%s, %s)", [task.pk, ana.pk])
    rows = OutboxEvent.objects.exclude(subject_type="task").order_by("id")
    made = [json.loads(bytes(row.payload)) for row in rows]
    for row, event in zip(rows, made, strict=True):
        assert rfc8785.dumps(event) == bytes(row.payload)
        model = {"comment": Comment, "watcher": Watcher}[row.subject_type]
        live = model.objects.filter(pk=row.subject_id)
        for document in model.documents(live):
            assert event["data"][row.subject_type] == document
    by_signal, by_database = made[:4], [*made[4:7], made[8]]
    for one, other in zip(by_signal, by_database, strict=True):
        assert one["data"].keys() == other["data"].keys()
        assert one["data"]["changes"].keys() == other["data"]["changes"].keys()
        assert (one["type"], one["dataschema"]) == (other["type"], other["dataschema"])
    assert made[7]["type"] == "watcher.deleted"


def test_copy_and_an_ignored_conflict_are_captured(committed_db):
    ana, task = User.objects.create(username="ana"), Task.objects.create(title="One")
    with (
        psycopg.connect(committed_db) as session,
        session.cursor() as cursor,
        cursor.copy("COPY tasks_comment (task_id, author_id, body) FROM STDIN") as copy,
    ):
        for n in range(5):
            copy.write_row((task.pk, ana.pk, f"Copied {n}"))
    Watcher.objects.bulk_create([Watcher(task=task, user=ana) for _ in range(2)], ignore_conflicts=True)
    assert OutboxEvent.objects.filter(subject_type="comment").count() == 5
    assert OutboxEvent.objects.filter(subject_type="watcher").count() == 1


@pytest.mark.parametrize("how", ["instance", "query set", "raw", "by its parent"])
def test_with_a_task_go_its_comments_and_watchers_each_with_its_event(ana, task, how):
    made = comments(task, 3)
    watcher = Watcher.objects.create(task=task, user=ana)
    parent = Task.objects.create(title="Parent")
    Task.objects.filter(pk=task.pk).update(parent=parent)
    if how == "instance":
        Task.objects.get(pk=task.pk).delete()
    elif how == "query set":
        Task.objects.filter(pk=task.pk).delete()
    elif how == "raw":
        run_sql("DELETE FROM tasks_task WHERE id = %s", parameters=[task.pk])
    else:
        parent.delete()
    commit_now()
    assert types_of(task.pk)[-1] == (3, "task.deleted")
    for comment in made:
        assert types_of(comment.pk) == [(1, "comment.created"), (2, "comment.deleted")]
        assert events_of(comment.pk)[1]["data"]["comment"] == events_of(comment.pk)[0]["data"]["comment"]
    assert types_of(watcher.pk) == [(1, "watcher.created"), (2, "watcher.deleted")]
    assert not Comment.objects.exists()
    assert not Watcher.objects.exists()


def test_a_deletion_costs_the_same_with_comments_and_without(ana):
    costs = []
    for count in (0, 1, 50):
        task = Task.objects.create(title="One", created_by=ana)
        comments(task, count)
        costs.append(statements(task.delete))
    assert len(set(costs)) == 1


def test_bulk_methods_cost_the_same_for_any_number(ana, task):
    costs = {}
    for count in (2, 50):
        rows = [Comment(task=task, author=ana, body="x") for _ in range(count)]
        mine = Comment.objects.filter(pk__in=[row.pk for row in rows])
        costs[count] = [
            statements(lambda rows=rows: Comment.objects.bulk_create(rows)),
            statements(lambda mine=mine: mine.update(body="y")),
            statements(lambda mine=mine: mine.delete()),
        ]
    assert costs[2] == costs[50]


FIXED = {
    "another task": "UPDATE tasks_comment SET task_id = '{other}'",
    "another author": "UPDATE tasks_comment SET author_id = {bo}",
    "another time": "UPDATE tasks_comment SET created_at = now()",
    "another watcher": "UPDATE tasks_watcher SET user_id = {bo}",
    "another task watched": "UPDATE tasks_watcher SET task_id = '{other}'",
    "another id": "UPDATE tasks_comment SET id = uuidv7()",
    "another version": "UPDATE tasks_comment SET body = 'x', version = 9",
    "no body": "UPDATE tasks_comment SET body = ''",
    "too long a body": f"UPDATE tasks_comment SET body = repeat('x', {BODY_LENGTH + 1})",
    "all of them": "TRUNCATE tasks_comment",
    "all watchers": "TRUNCATE tasks_watcher",
}


@pytest.mark.parametrize("statement", FIXED)
def test_what_is_not_to_change_is_refused(ana, task, statement):
    comments(task, 1)
    Watcher.objects.create(task=task, user=ana)
    other, bo = Task.objects.create(title="Two"), User.objects.create(username="bo")
    commit_now()
    with pytest.raises(DatabaseError), transaction.atomic():
        run_sql(FIXED[statement].format(other=other.pk, bo=bo.pk))


def test_a_session_in_replica_mode_is_captured_and_refused_too(committed_db):
    ana = User.objects.create(username="ana")
    task = Task.objects.create(title="One", created_by=ana)
    (comment,) = comments(task, 1)
    with psycopg.connect(committed_db, autocommit=True) as session:
        session.execute("SET session_replication_role = replica")
        session.execute("UPDATE tasks_comment SET body = 'Two'")
        for statement in ("TRUNCATE tasks_comment", "UPDATE tasks_comment SET author_id = 0"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is refused"):
                session.execute(statement)
    assert types_of(comment.pk) == [(1, "comment.created"), (2, "comment.updated")]


def test_a_comment_of_no_task_is_refused_and_an_author_is_not_deleted(ana, task):
    comments(task, 1)
    with pytest.raises(IntegrityError, match="comment_task"), transaction.atomic():
        Comment.objects.create(task=Task(title="not saved"), author=ana, body="x")
    task.created_by = None
    task.save()
    with pytest.raises(ProtectedError):
        ana.delete()


LOOK_UPS = {
    "comment_of_task": "SELECT * FROM tasks_comment WHERE task_id = '{task}' ORDER BY id DESC LIMIT 51",
    "comment_author": "SELECT FROM tasks_comment WHERE author_id = {ana} LIMIT 1",
    "watcher_once": "SELECT * FROM tasks_watcher WHERE task_id = '{task}'",
    "watcher_of_user": "SELECT task_id FROM tasks_watcher WHERE user_id = {ana} ORDER BY task_id DESC",
}


def test_each_look_up_has_its_index(ana, task):
    """Without the choice that the planner makes for small tables: an index that serves gives the rows in their order."""
    run_sql("SET LOCAL enable_seqscan = off", "SET LOCAL enable_bitmapscan = off")
    for index, query in LOOK_UPS.items():
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + query.format(task=task.pk, ana=ana.pk))
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert index in plan, plan
        assert "Sort" not in plan, plan
