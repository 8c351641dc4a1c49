"""Promise 3, the recorder's side: each true event once; repeats are absorbed; no statement reads what it need not."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from audit import archive, binary_arrays, reconcile, recorder
from audit.binary_arrays import ByteaArray, UuidArray
from audit.models import DeadLetter, Entry, LogHead
from tasks import context, events
from tasks.models import Task
from tests.recording import (
    add_outbox_row,
    assert_log_is_whole,
    forged,
    message,
    messages,
    record,
    recorded,
    task_with_versions,
    waiting,
)

# A row of the table: there, same digest, its turn.


def test_a_true_event_is_recorded_and_its_outbox_row_is_gone(db):
    actor = context.Actor("7", "ana", "user", "tok_1")
    with context.use(context.Context(actor=actor, request_id="r-1")):
        task = Task.objects.create(title="Pay")
    (row,) = waiting()
    (delivered,) = messages([row], partition=3)
    record([delivered])
    entry = Entry.objects.get()
    assert (entry.seq, entry.event_id, entry.event_type) == (1, row.event_id, "task.created")
    assert (entry.subject_type, entry.subject_id, entry.version, entry.task_id) == ("task", str(task.pk), 1, task.pk)
    assert (entry.actor_id, entry.actor_name, entry.actor_type, entry.request_id) == ("7", "ana", "user", "r-1")
    assert (entry.topic, entry.partition, entry.offset) == ("task-events", 3, delivered.offset())
    assert entry.event_data == json.loads(bytes(row.payload))
    assert entry.occurred_at == task.updated_at < entry.processed_at
    assert bytes(entry.digest) == bytes(row.digest)
    assert waiting() == []
    assert not DeadLetter.objects.exists()
    assert assert_log_is_whole() == 1


@pytest.mark.parametrize("statement", ["WITH wire", "SELECT event_id, digest", "UPDATE audit_log", "INSERT INTO audit_dead_letter"])
def test_entry_and_outbox_row_change_together_or_not_at_all(db, statement):
    task_with_versions(3)
    rows = waiting()

    def fail(execute, sql, parameters, many, execution):
        result = execute(sql, parameters, many, execution)
        if sql.strip().startswith(statement):
            raise OperationalError("cut")
        return result

    with pytest.raises(OperationalError), connection.execute_wrapper(fail):
        record([*messages(rows), message(b"nothing"), message(forged())])
    assert waiting() == rows
    assert (Entry.objects.count(), LogHead.objects.get().size, DeadLetter.objects.count()) == (0, 0, 0)
    record(messages(rows))
    assert assert_log_is_whole() == 3


@pytest.mark.foreign_events
def test_acts_without_a_row_have_no_order_and_wait_for_nothing(db):
    payloads = []
    for number in range(3):
        event_id, payload = events.build(
            subject_type="audit", subject_id="log", action="redacted", version=None, moment=datetime.now(UTC), task_id=None,
            document={"n": number}, changed={}, attributes={},
        )  # fmt: skip
        add_outbox_row(payload, event_id=event_id, subject_type="audit", subject_id="log", version=None)
        payloads.append(payload)
    record([message(payloads[2])])
    record([message(payloads[0]), message(payloads[1])])
    assert [entry.event_data["data"]["audit"]["n"] for entry in Entry.objects.order_by("seq")] == [2, 0, 1]
    assert waiting() == []
    assert_log_is_whole()


# Repeats.


def test_repeats_are_absorbed_and_counted(db):
    task_with_versions(2)
    rows = waiting()
    before = recorder.REPEATED._value.get()
    with CaptureQueriesContext(connection) as queries:
        record(messages(rows) + messages(rows))
    assert sum("SELECT origin" in query["sql"] for query in queries) == 1  # no second try
    record(messages(rows, partition=1) + messages(rows, partition=2))
    assert recorder.REPEATED._value.get() == before + 6
    assert not DeadLetter.objects.exists()
    assert assert_log_is_whole() == 2


def test_a_batch_of_repeats_costs_a_constant_number_of_statements(db, django_assert_num_queries):
    task_with_versions(30)
    batch = messages(waiting())
    record(batch)
    with django_assert_num_queries(6):  # savepoint, lock timeout, head, outbox, log, release
        record(batch[:1])
    with django_assert_num_queries(6):
        record(batch)


@contextmanager
def second_span():
    """A new head in the second partition, as after ten million entries."""
    LogHead.objects.create(origin="second", first_seq=10_000_001)
    yield


def test_a_repeat_of_an_archived_event_is_absorbed(db):
    late = task_with_versions(1)
    early = task_with_versions(1)
    late_rows, early_rows = waiting(late.pk), waiting(early.pk)
    record(messages(early_rows))
    with second_span():
        record(messages(late_rows))  # changed before the archived one, recorded after it
    archive.note(archive.Span("task_audit_log_00000", 1, 1), "a file", bytes(32))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE task_audit_log DETACH PARTITION task_audit_log_00000")
    assert recorded() == [(str(late.pk), 1)]
    record(messages(early_rows) + messages(late_rows))
    assert not DeadLetter.objects.exists()
    assert recorded() == [(str(late.pk), 1)]
    ahead = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    record([message(forged(time=ahead)), message(forged(source="/elsewhere"))])
    assert set(DeadLetter.objects.values_list("reason", flat=True)) == {"forged", "foreign"}


def test_an_old_event_is_forged_while_the_log_is_whole(db):
    task_with_versions(1)
    record(messages(waiting()))
    record([message(forged(time="2001-01-01T00:00:00Z"))])
    assert DeadLetter.objects.get().reason == "forged"


# Plans: with 100,000 waiting rows and statistics from when there were none, each look-up goes by an index.


@pytest.mark.parametrize("emptied", [False, True], ids=["never vacuumed", "vacuumed while it was empty"])
def test_no_statement_reads_the_outbox_as_a_whole(committed_db, emptied):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_outbox SET (autovacuum_enabled = off)")
        cursor.execute("ANALYZE tasks_outbox")
        cursor.execute(
            """
            INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload, published_at)
            SELECT id, 'task', n / 10, n % 10, convert_to(json_build_object('id', id, 'x', repeat('x', 700))::text, 'UTF8'), now()
            FROM (SELECT uuidv7() AS id, n FROM generate_series(0, 99999) n) made
            """
        )
        if emptied:  # the pages were kept, and held nothing
            cursor.execute("UPDATE pg_class SET relpages = 10000, reltuples = 0 WHERE oid = 'tasks_outbox'::regclass")
        cursor.execute("SELECT event_id, digest FROM tasks_outbox WHERE id %% 50 = 0", [])
        rows = cursor.fetchall()
        binary_arrays.allow(cursor)
        ids, digests = UuidArray.of([row[0].bytes for row in rows]), ByteaArray.of([bytes(row[1]) for row in rows])
        statements = [(reconcile._TAKE, [ids, digests]), (reconcile._SEND_AGAIN, {"ids": ids}), (reconcile._KNOWN, [ids, ids])]
        for mode in ("force_custom_plan", "force_generic_plan"):
            cursor.execute(f"SET plan_cache_mode = {mode}")
            for statement, parameters in statements:
                with transaction.atomic():
                    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
                    plan = cursor.fetchone()[0][0]
                    transaction.set_rollback(True)
                looked_at = max(
                    node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
                    for node in nodes(plan["Plan"])
                )
                # At worst all once; each of a batch beside all would be 200 million.
                assert looked_at <= (100_000 if emptied else 50_000), (mode, statement)


def test_a_busy_task_costs_no_more_while_a_dump_keeps_what_was_recorded(committed_db):
    insert = """
    INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload)
    SELECT id, 'task', '1', n, convert_to(json_build_object('id', id)::text, 'UTF8')
    FROM (SELECT uuidv7() AS id, n FROM generate_series(%s::bigint, %s) n) made RETURNING event_id, digest
    """
    with psycopg.connect(committed_db) as dump, connection.cursor() as cursor:
        dump.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        dump.execute("SELECT count(*) FROM tasks_outbox")
        cursor.execute(insert, [1, 20_000])
        cursor.execute("DELETE FROM tasks_outbox")
        cursor.execute(insert, [20_001, 20_001])
        ((event_id, digest),) = cursor.fetchall()
        binary_arrays.allow(cursor)
        parameters = [UuidArray.of([event_id.bytes]), ByteaArray.of([bytes(digest)])]
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {reconcile._TAKE}", parameters)
        plan = cursor.fetchone()[0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50


def nodes(plan: dict):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
