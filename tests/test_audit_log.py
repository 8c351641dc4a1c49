"""Promise 4: the log is append-only by the database's word, partitioned, and gives back the canonical bytes."""

import hashlib
import threading

import psycopg
import pytest
import rfc8785
from django.db import DatabaseError, ProgrammingError, connection, transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit.models import Entry, LogHead
from tasks import context
from tasks.models import OutboxEvent, Task
from tests.recording import assert_log_is_whole, messages, record, task_with_versions, waiting

PARTITION = "task_audit_log_00000"


@pytest.fixture
def entry(db) -> Entry:
    task_with_versions(2)
    record(messages(waiting()))
    return Entry.objects.first()


def execute_as(role: str, statement: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL session_replication_role = {role}")
        cursor.execute(statement)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda entry: Entry.objects.update(actor_id="someone else"),
        lambda entry: Entry.objects.filter(pk=entry.pk).update(event_data={}),
        lambda entry: Entry.objects.all().delete(),
        lambda entry: Entry.objects.filter(pk=entry.pk)._raw_delete("default"),
        lambda entry: entry.save(),
        lambda entry: entry.delete(),
        lambda entry: LogHead.objects.all().delete(),
        lambda entry: LogHead.objects.get().delete(),
    ],
)
def test_the_orm_cannot_change_the_log(entry, attempt):
    with pytest.raises(DatabaseError, match="is refused"), transaction.atomic():
        attempt(entry)
    assert assert_log_is_whole() == 2


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize("table", ["task_audit_log", PARTITION])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET actor_id = 'x'",
        "UPDATE {} SET seq = seq + 100",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "TRUNCATE {} CASCADE",
        "INSERT INTO {0} SELECT * FROM {0} ON CONFLICT (seq) DO UPDATE SET actor_id = 'x'",
        "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    ],
)
def test_raw_sql_cannot_change_the_log(entry, statement, table, role):
    with pytest.raises(ProgrammingError, match="refused: the audit log is append-only"):
        execute_as(role, statement.format(table))
    assert assert_log_is_whole() == 2


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize("statement", ["DELETE FROM audit_log", "TRUNCATE audit_log"])
def test_the_head_cannot_be_removed(entry, statement, role):
    with pytest.raises(ProgrammingError, match="is refused"):
        execute_as(role, statement)
    assert assert_log_is_whole() == 2


# Partitions.


def partitions() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'task_audit_log'::regclass ORDER BY 1")
        return [name for (name,) in cursor.fetchall()]


def ensure(seq: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT audit_ensure_partition(%s)", [seq])


def test_entries_cross_into_a_partition_that_was_made_ahead(db):
    LogHead.objects.create(origin="near the end of a partition", first_seq=9_999_996)
    task_with_versions(2)
    record(messages(waiting()))
    assert partitions() == [PARTITION, "task_audit_log_00001"]
    task_with_versions(7)
    record(messages(waiting()))
    assert assert_log_is_whole() == 9
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, count(*) FROM task_audit_log GROUP BY 1 ORDER BY 1")
        assert cursor.fetchall() == [(PARTITION, 5), ("task_audit_log_00001", 4)]


def test_the_next_partition_is_made_a_million_entries_before_it_is_needed(db):
    LogHead.objects.create(origin="early", first_seq=8_999_990)
    task_with_versions(1)
    record(messages(waiting()))
    assert partitions() == [PARTITION]
    task_with_versions(15)  # passes 9,000,000
    record(messages(waiting()))
    assert partitions() == [PARTITION, "task_audit_log_00001"]


def test_a_new_partition_refuses_as_the_first_does_and_has_its_indexes(db):
    LogHead.objects.create(origin="second", first_seq=10_000_001)
    task_with_versions(1)
    record(messages(waiting()))
    for statement in ("UPDATE {} SET version = 2", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(ProgrammingError, match="append-only"):
            execute_as("replica", statement.format("task_audit_log_00001"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT regexp_replace(indexdef, '^.* USING ', '') FROM pg_indexes WHERE tablename = ANY (%s) ORDER BY 1",
            [[PARTITION, "task_audit_log_00001"]],
        )
        definitions = [definition for (definition,) in cursor.fetchall()]
    assert definitions[::2] == definitions[1::2]
    assert "btree (event_id)" in definitions


def test_making_a_partition_again_and_by_several_at_once_does_nothing_more(committed_db):
    start = threading.Barrier(4)
    errors = []

    def make():
        try:
            with psycopg.connect(committed_db) as session:
                start.wait()
                session.execute("SELECT audit_ensure_partition(10000001), audit_ensure_partition(20000000)")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    ensure(10_000_001)
    ensure(1)
    assert partitions() == [PARTITION, "task_audit_log_00001"]


def test_making_a_partition_blocks_no_reader_and_waits_for_none(committed_db):
    task_with_versions(1)
    record(messages(waiting()))
    with psycopg.connect(committed_db) as reader, psycopg.connect(committed_db) as maker:
        assert reader.execute("SELECT count(*) FROM task_audit_log").fetchone() == (1,)  # its lock stays until it ends
        maker.execute("SET lock_timeout = '2s'")
        maker.execute("SELECT audit_ensure_partition(10000001)")
        with psycopg.connect(committed_db) as other:
            other.execute("SET lock_timeout = '2s'")
            assert other.execute("SELECT count(*) FROM task_audit_log").fetchone() == (1,)
        assert reader.execute("SELECT count(*) FROM task_audit_log").fetchone() == (1,)


def test_whoever_is_not_granted_it_cannot_make_partitions(db):
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE taskpulse_test_nobody")
        cursor.execute("SET LOCAL ROLE taskpulse_test_nobody")
        with pytest.raises(ProgrammingError, match="permission denied"):
            cursor.execute("SELECT public.audit_ensure_partition(10000001)")


# The entry gives back the event's canonical bytes.

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
# At most 64 characters, a label's length.
ODD = '"\\/\b\f\n\r\t\x01\x1f\x7f\x80\u00a0\u2028\u2029\ufeff\ufffe\uffff e\u0301 é 👩‍👩‍👧 \U0010ffff \\u0041 \ud7ff\ue000'


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, TEXT, st.lists(TEXT, max_size=4), st.one_of(st.none(), TEXT), TEXT)
@example(ODD, ODD, [ODD, "-"], ODD, ODD)
@example("\\u0000", '{"a": 1e5}', ["null", "1.0"], "", "x")
def test_event_data_gives_back_the_canonical_bytes(db, title, description, labels, summary, name):
    with transaction.atomic():
        actor = context.Actor(name or "nobody", name or "nobody", "user")
        with context.use(context.Context(actor=actor)):
            labels = [label[:64] or "-" for label in labels]
            task = Task.objects.create(title=title or "-", description=description, labels=labels, summary=summary)
            task.title = (title + name)[:255] or "-"
            task.save()
            with connection.cursor() as cursor:  # the database's own capture
                cursor.execute("UPDATE tasks_task SET description = %s WHERE id = %s", [description + title, task.pk])
        connection.check_constraints()
        rows = {row.event_id: bytes(row.payload) for row in OutboxEvent.objects.filter(subject_id=str(task.pk))}
        record(messages(waiting(task.pk)))
        entries = Entry.objects.filter(event_id__in=rows)
        assert len(entries) == len(rows) >= 1
        for entry in entries:
            payload = rows[entry.event_id]
            assert rfc8785.dumps(entry.event_data) == payload
            assert bytes(entry.digest) == hashlib.sha256(payload).digest()
        transaction.set_rollback(True)
