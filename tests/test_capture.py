"""Promises 1 and 2: a change and its event commit together or not at all, and no write path bypasses it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import rfc8785
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from tasks import outbox
from tasks.audited import StaleObjectError
from tasks.models import OutboxEvent, Status, Task, Tombstone


def events_of(subject_id) -> list[dict]:
    rows = OutboxEvent.objects.filter(subject_id=str(subject_id)).order_by("version")
    return [json.loads(bytes(row.payload)) for row in rows]


def types_of(subject_id) -> list[tuple[int, str]]:
    return [(int(event["sequence"]), event["type"]) for event in events_of(subject_id)]


def commit_now():
    """Runs the deferred triggers as the commit would."""
    connection.check_constraints()


@pytest.fixture
def ana(db) -> User:
    return User.objects.create(username="ana")


# Signals: save and delete.


def test_create_save_and_delete_make_one_event_each(ana):
    task = Task.objects.create(title="Pay the invoice", created_by=ana, labels=["billing"])
    task.status = Status.COMPLETED
    task.save()
    key = task.pk
    task.delete()
    commit_now()
    assert types_of(key) == [(1, "task.created"), (2, "task.updated"), (3, "task.deleted")]
    created, updated, deleted = events_of(key)
    assert created["data"]["changes"]["title"] == {"from": None, "to": "Pay the invoice"}
    assert created["data"]["task"]["created_by"] == {"id": str(ana.pk), "name": "ana"}
    assert set(updated["data"]["changes"]) == {"status", "completed_at"}
    assert updated["data"]["task"]["completed_at"] == updated["time"] == updated["data"]["task"]["updated_at"]
    assert deleted["data"]["task"] == updated["data"]["task"]
    assert deleted["data"]["changes"] == {}


def test_an_event_is_a_canonical_cloudevent(ana):
    task = Task.objects.create(title='"\\\b\f\n\r\t\x01\x7f é😀\u2028', assignee=ana)
    row = OutboxEvent.objects.get(subject_id=str(task.pk))
    event = json.loads(bytes(row.payload))
    assert rfc8785.dumps(event) == bytes(row.payload)
    assert event["specversion"] == "1.0"
    assert event["source"] == "/taskpulse/tasks"
    assert event["subject"] == f"task/{task.pk}"
    assert event["taskid"] == str(task.pk)
    assert event["id"] == str(row.event_id)
    assert event["sequence"] == "00000000000000000001"
    assert len(bytes.fromhex(event["data"]["nonce"])) == 16
    assert event["data"]["task"] == json.loads(rfc8785.dumps(Task.documents([task])[0]))


def test_a_save_that_changes_nothing_makes_no_event_and_no_version(ana):
    task = Task.objects.create(title="Same", created_by=ana)
    Task.objects.get(pk=task.pk).save()
    task.save()
    assert Task.objects.filter(pk=task.pk).update(title="Same") == 1
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_task SET title = 'Same', updated_at = now(), version = version + 1")
    commit_now()
    assert types_of(task.pk) == [(1, "task.created")]
    assert Task.objects.get(pk=task.pk).updated_at == task.updated_at


def test_saving_a_stale_copy_raises_and_writes_nothing(ana):
    task = Task.objects.create(title="One", created_by=ana)
    other = Task.objects.get(pk=task.pk)
    other.title = "Two"
    other.save()
    task.title = "Three"
    with pytest.raises(StaleObjectError), transaction.atomic():
        task.save()
    task.refresh_from_db()
    assert task.title == "Two"
    task.title = "Three"
    task.save()
    assert [event["data"]["task"]["title"] for event in events_of(task.pk)] == ["One", "Two", "Three"]


def test_saving_a_deleted_task_raises(ana):
    task = Task.objects.create(title="One")
    Task.objects.get(pk=task.pk).delete()
    task.title = "Two"
    with pytest.raises(StaleObjectError), transaction.atomic():
        task.save()


def test_save_with_an_expression_records_its_value(ana):
    task = Task.objects.create(title="One")
    task.description = F("title")
    task.save()
    assert task.description == "One"
    assert events_of(task.pk)[1]["data"]["changes"] == {"description": {"from": "", "to": "One"}}


def test_save_of_an_instance_with_deferred_fields_records_the_whole_row(ana):
    key = Task.objects.create(title="One", description="long", created_by=ana).pk
    task = Task.objects.only("title").get(pk=key)
    task.title = "Two"
    task.save()
    event = events_of(key)[1]
    assert event["data"]["task"]["description"] == "long"
    assert event["data"]["changes"] == {"title": {"from": "One", "to": "Two"}}


def test_a_stale_copy_deleted_records_the_row_as_it_last_was(ana):
    task = Task.objects.create(title="One")
    Task.objects.filter(pk=task.pk).update(title="Two")
    key = task.pk
    task.delete()
    commit_now()
    assert types_of(key) == [(1, "task.created"), (2, "task.updated"), (3, "task.deleted")]
    assert events_of(key)[2]["data"]["task"]["title"] == "Two"


# Bulk methods.


def make_tasks(count: int, **fields) -> list[Task]:
    return Task.objects.bulk_create([Task(title=f"Task {n}", **fields) for n in range(count)])


@pytest.mark.parametrize("count", [1, 7])
def test_each_bulk_method_makes_one_event_a_row(ana, count):
    tasks = make_tasks(count, created_by=ana)
    keys = [task.pk for task in tasks]
    assert Task.objects.filter(pk__in=keys).update(priority="high", assignee=ana) == count
    for task in tasks:
        task.title = f"New {task.pk}"
    Task.objects.bulk_update(tasks, ["title"])
    deleted, _ = Task.objects.filter(pk__in=keys).delete()
    commit_now()
    assert deleted == count
    for key in keys:
        assert [kind for _, kind in types_of(key)] == ["task.created", "task.updated", "task.updated", "task.deleted"]
        assert [version for version, _ in types_of(key)] == [1, 2, 3, 4]
        assert events_of(key)[3]["data"]["task"]["title"] == f"New {key}"


def test_update_with_an_expression_and_of_the_filtered_column(ana):
    keys = [task.pk for task in make_tasks(3)]
    assert Task.objects.filter(pk__in=keys, status=Status.PENDING).update(status=Status.COMPLETED, description=F("title")) == 3
    for key in keys:
        assert set(events_of(key)[1]["data"]["changes"]) == {"status", "completed_at", "description"}


def test_bulk_create_with_a_conflict_option_is_captured_by_the_database(ana):
    old, new = Task.objects.create(title="Old"), Task(title="New")
    Task.objects.bulk_create([Task(id=old.pk, title="Ignored"), new], ignore_conflicts=True)
    Task.objects.bulk_create(
        [Task(id=old.pk, title="Replaced")], update_conflicts=True, unique_fields=["id"], update_fields=["title"]
    )
    commit_now()
    assert types_of(new.pk) == [(1, "task.created")]
    assert events_of(old.pk)[1]["data"]["changes"] == {"title": {"from": "Old", "to": "Replaced"}}


def test_get_or_create_and_update_or_create(ana):
    task, _ = Task.objects.get_or_create(title="Once")
    Task.objects.get_or_create(title="Once")
    Task.objects.update_or_create(title="Once", defaults={"priority": "low"})
    assert types_of(task.pk) == [(1, "task.created"), (2, "task.updated")]


@pytest.mark.parametrize("how", ["instance", "query set", "raw"])
def test_deleting_a_parent_deletes_its_subtasks_each_with_its_event(ana, how):
    parent = Task.objects.create(title="Parent")
    children = make_tasks(3, parent=parent)
    key = parent.pk
    if how == "instance":
        parent.delete()
    elif how == "query set":
        Task.objects.filter(pk=key).delete()
    else:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_task WHERE id = %s", [key])
    commit_now()
    for subject in (key, *(child.pk for child in children)):
        assert types_of(subject)[1:] == [(2, "task.deleted")]
    assert not Task.objects.exists()


def statements(action) -> int:
    with CaptureQueriesContext(connection) as context:
        action()
    return len([q for q in context.captured_queries if not q["sql"].startswith(("SAVEPOINT", "RELEASE"))])


def test_a_bulk_of_500_costs_as_many_statements_as_one_of_5(ana):
    costs = {}
    for count in (5, 500):
        tasks = [Task(title=f"Task {n}", created_by=ana, assignee=ana) for n in range(count)]
        mine = Task.objects.filter(pk__in=[task.pk for task in tasks])
        costs[count] = [
            statements(lambda tasks=tasks: Task.objects.bulk_create(tasks)),
            statements(lambda mine=mine: mine.update(priority="low")),
            statements(lambda mine=mine: mine.delete()),
        ]
    assert costs[5] == costs[500]
    assert costs[5] == [2, 5, 5]


def test_create_costs_two_data_statements_and_update_two(ana):
    task = Task(title="One", created_by=ana, assignee=ana)
    assert statements(task.save) == 2
    task.title = "Two"
    assert statements(task.save) == 2


# The backstop: what no signal saw.


def run_sql(*texts: str, parameters=None) -> None:
    with connection.cursor() as cursor:
        for text in texts:
            cursor.execute(text, parameters)


def test_raw_insert_update_delete_are_captured_with_the_role_as_actor(committed_db):
    key = "01999999-0000-7000-8000-000000000001"
    with psycopg.connect(committed_db, autocommit=True) as session:
        session.execute(
            "INSERT INTO tasks_task (id, title, description, priority, status, labels) "
            "VALUES (%s, 'Raw', '', 'low', 'pending', '{}')",
            [key],
        )
        session.execute("UPDATE tasks_task SET status = 'completed' WHERE id = %s", [key])
        session.execute("DELETE FROM tasks_task WHERE id = %s", [key])
        role = session.execute("SELECT session_user").fetchone()[0]
    assert types_of(key) == [(1, "task.created"), (2, "task.updated"), (3, "task.deleted")]
    for event in events_of(key):
        assert (event["actorid"], event["actorname"], event["actortype"]) == (f"db:{role}", role, "database")
    assert events_of(key)[1]["data"]["changes"]["status"] == {"from": "pending", "to": "completed"}
    assert events_of(key)[2]["data"]["task"] == events_of(key)[1]["data"]["task"]


def test_copy_is_captured(committed_db):
    with (
        psycopg.connect(committed_db) as session,
        session.cursor() as cursor,
        cursor.copy("COPY tasks_task (id, title, description, priority, status, labels) FROM STDIN") as copy,
    ):
        for n in range(20):
            copy.write_row((f"01999999-0000-7000-8000-{n:012d}", f"Copied {n}", "", "high", "completed", "{a,b}"))
    rows = list(OutboxEvent.objects.all())
    assert len(rows) == 20
    for row in rows:
        assert rfc8785.dumps(json.loads(bytes(row.payload))) == bytes(row.payload)
        assert json.loads(bytes(row.payload))["data"]["task"]["completed_at"] is not None


def test_several_changes_of_a_row_in_one_raw_transaction_keep_every_version(committed_db):
    task = Task.objects.create(title="0")
    with psycopg.connect(committed_db) as session:
        for title in "123":
            session.execute("UPDATE tasks_task SET title = %s WHERE id = %s", [title, task.pk])
        session.execute("DELETE FROM tasks_task WHERE id = %s", [task.pk])
    assert [version for version, _ in types_of(task.pk)] == [1, 2, 3, 4, 5]
    assert [event["data"]["task"]["title"] for event in events_of(task.pk)] == ["0", "1", "2", "3", "3"]
    times = [event["time"] for event in events_of(task.pk)]
    assert times == sorted(set(times))


@pytest.mark.parametrize("table", ["tasks_task", "tasks_outbox", "tasks_tombstone"])
def test_truncate_is_refused_even_for_a_replica_session(committed_db, table):
    with psycopg.connect(committed_db) as session:
        session.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"TRUNCATE of .* is refused"):
            session.execute(f"TRUNCATE {table} CASCADE")


def test_no_session_setting_switches_capture_off(committed_db):
    task = Task.objects.create(title="One")
    with psycopg.connect(committed_db) as session:
        session.execute("SET session_replication_role = replica")
        session.execute("UPDATE tasks_task SET title = 'Two' WHERE id = %s", [task.pk])
    assert types_of(task.pk) == [(1, "task.created"), (2, "task.updated")]


def test_base_manager_and_raw_delete_are_captured(ana):
    task = Task.objects.create(title="One")
    Task._base_manager.filter(pk=task.pk).update(title="Two")
    Task.objects.filter(pk=task.pk)._raw_delete("default")
    commit_now()
    assert [kind for _, kind in types_of(task.pk)] == ["task.created", "task.updated", "task.deleted"]


# Transactions.


def test_what_a_savepoint_rolls_back_leaves_no_event(committed_db):
    with transaction.atomic():
        kept = Task.objects.create(title="Kept")
        with pytest.raises(RuntimeError), transaction.atomic():
            gone = Task.objects.create(title="Gone")
            run_sql("UPDATE tasks_task SET title = 'Gone too'")
            raise RuntimeError
        run_sql("UPDATE tasks_task SET priority = 'high'")
    assert types_of(gone.pk) == []
    assert types_of(kept.pk) == [(1, "task.created"), (2, "task.updated")]
    with pytest.raises(RuntimeError), transaction.atomic():
        Task.objects.filter(pk=kept.pk).delete()
        raise RuntimeError
    assert types_of(kept.pk) == [(1, "task.created"), (2, "task.updated")]


def test_append_outside_a_transaction_raises(committed_db):
    with pytest.raises(TransactionManagementError, match="transaction of the change"):
        outbox.append([])


def test_a_change_whose_event_cannot_be_written_is_not_made(committed_db, monkeypatch):
    def fail(**_):
        raise RuntimeError("no event")

    monkeypatch.setattr("tasks.events.build", fail)
    with pytest.raises(RuntimeError):
        Task.objects.create(title="Never")
    monkeypatch.undo()
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    "column", ["event_id = uuidv7()", "version = 9", "payload = '{}'", "subject_id = 'x'", "created_at = now()"]
)
def test_an_outbox_event_is_never_altered(ana, column):
    Task.objects.create(title="One")
    with pytest.raises(DatabaseError, match="refused"), transaction.atomic():
        run_sql(f"UPDATE tasks_outbox SET {column}")
    with pytest.raises(DatabaseError), transaction.atomic():
        run_sql("UPDATE tasks_outbox SET digest = sha256('x')")


# Versions and times are the database's.


@pytest.mark.parametrize("statement", ["version = version + 2", "version = version - 1", "version = NULL", "id = uuidv7()"])
def test_versions_and_ids_are_not_the_writers(ana, statement):
    Task.objects.create(title="One")
    with pytest.raises(IntegrityError), transaction.atomic():
        run_sql(f"UPDATE tasks_task SET title = 'Two', {statement}")


def test_an_insert_cannot_choose_its_version_and_a_tombstone_is_continued(ana):
    task = Task.objects.create(title="One", version=77)
    assert task.version == 1
    key, last = task.pk, task.updated_at
    task.delete()
    assert Tombstone.objects.get(subject_id=str(key)).version == 2
    again = Task.objects.create(id=key, title="Again")
    again.delete()
    third = Task.objects.create(id=key, title="Third")
    commit_now()
    assert [version for version, _ in types_of(key)] == [1, 2, 3, 4, 5]
    assert third.version == 5
    assert third.updated_at > last


def test_time_never_runs_backwards_within_a_subject(ana):
    task = Task.objects.create(title="0")
    for n in range(1, 20):
        run_sql("UPDATE tasks_task SET title = %s, updated_at = '2001-01-01Z'", parameters=[str(n)])
    commit_now()
    times = [event["time"] for event in events_of(task.pk)]
    assert times == sorted(set(times))
    assert len(times) == 20


def test_an_insert_that_waited_for_the_delete_of_its_id_is_refused(committed_db):
    """Its trigger ran before the tombstone was visible: without the check the subject would have two versions 1."""
    task = Task.objects.create(title="One")

    def insert():
        with psycopg.connect(committed_db) as other:
            other.execute(
                "INSERT INTO tasks_task (id, title, description, priority, status, labels)"
                " VALUES (%s, 'Two', '', 'low', 'pending', '{}')",
                [task.pk],
            )

    with pytest.raises(psycopg.errors.SerializationFailure):
        meanwhile(committed_db, "DELETE FROM tasks_task WHERE id = %s", [task.pk], insert)


def wait_for_lock(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as watcher:
        for _ in range(500):
            if watcher.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                return
            watcher.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nothing waits for a lock")


def meanwhile(url: str, statement: str, parameters, act: Callable):
    """What the act gives, in a thread, while a session has run the statement, which it commits when the act waits for it. Raises
    what the act raises."""

    def do():
        try:
            return act()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread, psycopg.connect(url) as session:
        session.execute(statement, parameters)
        acted = thread.submit(do)
        wait_for_lock(url)
        session.commit()
        return acted.result()


def test_two_bulk_updates_of_the_same_rows_do_not_deadlock(committed_db):
    keys = [task.pk for task in make_tasks(50)]
    failures = []

    def update(order):
        try:
            for n in range(10):
                Task.objects.filter(pk__in=keys).order_by(order).update(title=f"{order} {n}")
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=update, args=[order]) for order in ("id", "-id")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [version for version, _ in types_of(keys[0])] == list(range(1, 22))


def test_a_parent_and_its_subtask_deleted_at_once_make_one_event_each(committed_db):
    """The cascade has read the subtask when another transaction deletes it: that one's event is the one."""
    parent = Task.objects.create(title="Parent")
    key, child = parent.pk, Task.objects.create(title="Child", parent=parent)
    meanwhile(committed_db, "DELETE FROM tasks_task WHERE id = %s", [child.pk], lambda: Task.objects.get(pk=key).delete())
    assert types_of(key) == types_of(child.pk) == [(1, "task.created"), (2, "task.deleted")]
    assert events_of(child.pk)[1]["actortype"] == "database"
