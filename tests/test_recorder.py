"""Promise 3, the recorder's side: each true event once, in version order; what is not true is kept apart and stops nothing."""

import json
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from audit import ledger, merkle, reconcile, recorder
from audit.models import DeadLetter, Entry, LogHead
from audit.recorder import Recorder, TooManyHeld
from tasks import context, events
from tasks.models import OutboxEvent, Task
from tests.recording import (
    add_outbox_row,
    assert_log_is_whole,
    message,
    messages,
    publish_all,
    record,
    recorded,
    task_with_versions,
    versions,
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


# Order.


def test_a_batch_is_sorted_by_version_within_each_subject(db):
    one, two = task_with_versions(3), task_with_versions(2)
    batch = messages(waiting())
    record(batch[::-1])
    assert recorded() == [(str(two.pk), 1), (str(two.pk), 2), (str(one.pk), 1), (str(one.pk), 2), (str(one.pk), 3)]
    assert_log_is_whole()


def test_an_early_event_is_sent_back_with_all_that_follow_it(db):
    task, other = task_with_versions(4), task_with_versions(2)
    publish_all()
    first, second, third, fourth = waiting(task.pk)
    record(messages([third, *waiting(other.pk)]))
    assert recorded() == [(str(other.pk), 1), (str(other.pk), 2)]
    assert [(row.version, row.published_at) for row in waiting()] == [(1, None), (2, None), (3, None), (4, None)]
    record(messages([first, second, third, fourth]))
    assert versions(task.pk) == [1, 2, 3, 4]
    assert waiting() == []
    assert not DeadLetter.objects.exists()
    assert_log_is_whole()


def test_what_may_be_recorded_of_a_subject_is_and_the_rest_is_sent_back(db):
    task = task_with_versions(4)
    publish_all()
    first, second, third, fourth = waiting(task.pk)
    before = recorder.REORDERED._value.get()
    record(messages([fourth, second, first]))
    assert versions(task.pk) == [1, 2]
    assert [(row.version, row.published_at) for row in waiting()] == [(3, None), (4, None)]
    assert recorder.REORDERED._value.get() == before + 1
    record(messages([third, fourth]))
    assert versions(task.pk) == [1, 2, 3, 4]


def test_sending_back_leaves_other_subjects_alone(db):
    task, other = task_with_versions(2), task_with_versions(2)
    publish_all()
    record(messages(waiting(task.pk)[1:]))
    assert all(row.published_at is not None for row in waiting(other.pk))


def test_a_message_lost_on_the_way(db):
    task = task_with_versions(3)
    publish_all()
    first, second, third = messages(waiting())
    record([first, third])  # the second never came
    assert versions(task.pk) == [1]
    assert [row.published_at for row in waiting()] == [None, None]
    record([second, third])
    assert versions(task.pk) == [1, 2, 3]


def test_partitions_added_later_versions_come_first_by_another_one(db):
    task = task_with_versions(4)
    publish_all()
    rows = waiting()
    record(messages(rows[2:], partition=5))
    assert versions(task.pk) == []
    record(messages(rows[:2], partition=1))
    assert versions(task.pk) == [1, 2]
    record(messages(rows[2:], partition=5))  # the relay sends them again
    assert versions(task.pk) == [1, 2, 3, 4]
    assert_log_is_whole()


def test_a_copy_on_another_partition_is_recorded_once_and_in_order(db):
    task = task_with_versions(3)
    rows = waiting()
    record(messages(rows[2:], partition=2))
    record(messages(rows, partition=0) + messages(rows, partition=2))
    record(messages(rows, partition=1))
    assert versions(task.pk) == [1, 2, 3]
    assert set(Entry.objects.values_list("partition", flat=True)) == {0}
    assert not DeadLetter.objects.exists()


def test_an_altered_message_before_its_successor_holds_the_successor_back(db):
    task = task_with_versions(3)
    publish_all()
    first, second, third = waiting()
    record([*messages([first]), message(bytes(second.payload).replace(b"version 2", b"version X")), *messages([third])])
    assert versions(task.pk) == [1]
    assert DeadLetter.objects.get().reason == "altered"
    assert [(row.version, row.published_at) for row in waiting()] == [(2, None), (3, None)]
    record(messages([second, third]))
    assert versions(task.pk) == [1, 2, 3]
    assert "X" not in Entry.objects.get(version=2).event_data["data"]["task"]["title"]


def test_a_busy_subject_among_others_in_one_batch(db):
    busy = task_with_versions(40)
    quiet = [task_with_versions(2) for _ in range(5)]
    batch = messages(waiting())
    record(batch[::2] + batch[1::2])
    assert versions(busy.pk) == list(range(1, 41))
    assert all(versions(task.pk) == [1, 2] for task in quiet)
    assert_log_is_whole()


# Forgeries.


@pytest.mark.parametrize("forgery_first", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_forgery_with_a_true_id_never_removes_the_true_row(db, forgery_first, together):
    Task.objects.create(title="true")
    (row,) = waiting()
    true, false = message(bytes(row.payload)), message(bytes(row.payload).replace(b"true", b"lie!"))
    order = [false, true] if forgery_first else [true, false]
    for batch in [order] if together else [[one] for one in order]:
        record(batch)
        if batch == [false] and forgery_first:
            assert waiting() == [row]
    assert Entry.objects.get().event_data["data"]["task"]["title"] == "true"
    letter = DeadLetter.objects.get()
    assert letter.reason == "altered"
    assert bytes(letter.value) == false.value()
    assert_log_is_whole()


def test_bytes_that_say_the_same_in_another_form_are_altered(db):
    Task.objects.create(title="true")
    (row,) = waiting()
    record([message(bytes(row.payload) + b" "), message(json.dumps(json.loads(bytes(row.payload))).encode())])
    assert list(DeadLetter.objects.values_list("reason", flat=True)) == ["altered", "altered"]
    assert waiting() == [row]
    assert recorded() == []


def forged(**attributes) -> bytes:
    event = {
        "id": str(uuid.uuid4()), "source": events.SOURCE, "specversion": "1.0", "subject": "task/1", "type": "task.created",
        "time": "2026-01-15T10:30:00.123456Z", "sequence": "00000000000000000001",
    }  # fmt: skip
    return json.dumps(event | attributes).encode()


def test_what_no_change_made_is_forged(db):
    record([message(forged())])
    letter = DeadLetter.objects.get()
    assert (letter.reason, recorded()) == ("forged", [])


def test_a_forgery_of_a_live_subjects_next_version_holds_nothing_up(db):
    task = task_with_versions(2)
    rows = waiting()
    fake = forged(subject=f"task/{task.pk}", taskid=str(task.pk), sequence="00000000000000000003")
    record([message(fake), *messages(rows)])
    assert versions(task.pk) == [1, 2]
    assert DeadLetter.objects.get().reason == "forged"


def test_an_event_of_another_source_is_foreign(db):
    record([message(forged(source="/elsewhere"))])
    assert DeadLetter.objects.get().reason == "foreign"


def test_what_cannot_be_read_is_malformed_and_its_bytes_are_kept(db):
    Task.objects.create(title="true")
    values = [b"", None, b"\xff\xfe", b"{}", b"[1]", b'{"id": 1}', forged(time="yesterday"), forged(time="2026-01-15T10:30:00")]
    values += [forged(sequence="1" * 21), forged(sequence="-1"), forged(specversion="2.0"), b"[" * 100_000]
    record([message(value) for value in values] + messages(waiting()))
    letters = DeadLetter.objects.order_by("id")
    assert {letter.reason for letter in letters} == {"malformed"}
    assert [None if letter.value is None else bytes(letter.value) for letter in letters] == values
    assert all(letter.detail for letter in letters)
    assert len(recorded()) == 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"sequence": "9" * 20},
        {"time": "0001-01-01T00:00:00+14:00"},
        {"time": "9999-12-31T23:59:59-14:00"},
        {"subject": "x" * 900_000},
        {"actorid": "\udcff"},
        {"subject": "task/\x00"},
        {"taskid": "00000000-0000-0000-0000-000000000000"},
    ],
    ids=str,
)
def test_a_forgery_of_extreme_values_is_a_dead_letter(db, attributes):
    record([message(forged(**{name: value[:900_000] for name, value in attributes.items()}))])
    assert DeadLetter.objects.get().reason in {"forged", "malformed"}


def test_the_same_dead_letter_is_kept_once(db):
    letter = message(b"no event")
    record([letter])
    record([letter])
    assert DeadLetter.objects.count() == 1
    record([message(b"no event")])  # the same bytes at another offset
    assert DeadLetter.objects.count() == 2


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


# Held rows.


def refuse_in_log(condition: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE task_audit_log_00000 ADD CONSTRAINT test_refuses CHECK ({condition})")


def accept_in_log() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE task_audit_log_00000 DROP CONSTRAINT test_refuses")


def release_all() -> None:
    OutboxEvent.objects.exclude(held_at=None).update(held_at=None, held_reason=None)


def test_an_event_that_the_log_refuses_is_held_and_the_rest_is_recorded(db):
    tasks = [task_with_versions(3) for _ in range(7)]
    bad = tasks[3]
    refuse_in_log(f"subject_id <> '{bad.pk}' OR version <> 2")
    publish_all()
    record(messages(waiting()))
    assert versions(bad.pk) == [1]
    assert all(versions(task.pk) == [1, 2, 3] for task in tasks if task is not bad)
    held, later = waiting()
    assert (held.version, later.version) == (2, 3)
    assert held.held_at is not None
    assert held.published_at is None  # goes out at once when it is released
    assert "test_refuses" in held.held_reason
    assert "Failing row" not in held.held_reason  # PostgreSQL's detail quotes the row
    assert (later.held_at, later.published_at) == (None, None)
    assert not DeadLetter.objects.exists()
    assert_log_is_whole()


def test_a_message_of_a_held_row_is_absorbed_and_later_versions_wait_for_its_release(db):
    task = task_with_versions(3)
    refuse_in_log("version <> 1")
    rows = waiting()
    record(messages(rows[:1]))
    record(messages(rows))
    assert recorded() == []
    assert [row.held_at is not None for row in waiting()] == [True, False, False]
    assert not DeadLetter.objects.exists()
    accept_in_log()
    record(messages(rows))  # mended, but nobody has released it
    assert recorded() == []
    release_all()
    assert {row.published_at for row in waiting()} == {None}  # so that the relay sends all of them
    record(messages(rows))
    assert versions(task.pk) == [1, 2, 3]
    assert_log_is_whole()


def test_a_forgery_of_an_event_that_the_log_refuses_does_not_hold_it(db):
    task = task_with_versions(1)
    refuse_in_log("version <> 1")
    (row,) = waiting()
    assert not Recorder()._hold(row.event_id, b"\0" * 32, "a reason")
    record([message(bytes(row.payload) + b" ")])
    assert waiting()[0].held_at is None
    record(messages([row]))
    assert waiting(task.pk)[0].held_at is not None


def test_a_payload_that_jsonb_refuses_is_held(db):
    good = task_with_versions(1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_outbox DISABLE TRIGGER taskpulse_true")
    key = uuid.uuid4()
    payload = forged(id=str(key), subject="task/1", data={"x": "NUL"}).replace(b"NUL", b"\\u0000")
    add_outbox_row(payload, event_id=key, subject_id="1", version=1)
    record([message(payload), *messages(waiting(good.pk))])
    assert recorded() == [(str(good.pk), 1)]
    (held,) = waiting()
    assert "Unicode" in held.held_reason


def test_a_leaf_record_that_fits_no_tile_is_held(db):
    with context.use(context.Context(actor=context.Actor("x" * 70_000, "ana", "user"))):
        Task.objects.create(title="too much of a name")
    good = task_with_versions(1)
    record(messages(waiting()))
    assert recorded() == [(str(good.pk), 1)]
    (held,) = waiting()
    assert "65535" in held.held_reason
    assert_log_is_whole()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"subject_id": "2", "version": 1}, {}),
        ({"subject_id": "1", "version": 2}, {}),
        ({"subject_id": "1", "version": 1, "task_id": uuid.uuid4()}, {}),
        ({"subject_id": "1", "version": 1}, {"sequence": "9" * 20}),
        ({"subject_id": "1", "version": None}, {}),
        ({"subject_id": "1", "version": 1}, {"time": "0001-01-01T00:00:00+14:00"}),
    ],
)
def test_a_payload_that_does_not_fit_its_outbox_row_is_held(db, row, said):
    key = uuid.uuid4()
    payload = forged(id=str(key), **said)
    add_outbox_row(payload, event_id=key, **row)
    good = task_with_versions(2)
    record([message(payload), *messages(waiting(good.pk))])
    assert versions(good.pk) == [1, 2]
    (held,) = waiting()
    assert held.held_reason
    assert_log_is_whole()


def test_above_the_limit_of_held_rows_nothing_more_is_held(db, settings):
    settings.MAX_HELD_ROWS = 2
    tasks = [task_with_versions(1) for _ in range(3)]
    refuse_in_log("version <> 1")
    with pytest.raises(TooManyHeld, match=r"2 events are held \(TASKPULSE_MAX_HELD_ROWS\).*test_refuses"):
        record(messages(waiting()))
    assert [row.held_at is not None for row in waiting()] == [True, True, False]
    assert not Recorder().is_transient(TooManyHeld("x"))
    accept_in_log()
    release_all()
    record(messages(waiting()))
    assert len(recorded()) == len(tasks)


# Faults that pass.


def cut(name: str) -> None:
    """Ends the session of this test's connection from another one."""
    number = connection.connection.info.backend_pid
    with psycopg.connect(name) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [number])


def handle_with_faults(handler: Recorder, batch) -> list[Exception]:
    """As the consumer does: what is transient is tried again on a new connection."""
    faults = []
    for _ in range(5):
        try:
            handler.handle(batch)
        except Exception as error:
            if not handler.is_transient(error):
                raise
            faults.append(error)
            connection.close()
        else:
            return faults
    raise AssertionError(faults)


@pytest.mark.parametrize("statement", ["SELECT origin", "WITH wire", "UPDATE audit_log"])
def test_a_connection_cut_between_two_statements_loses_nothing(committed_db, statement):
    task_with_versions(5)
    done = []

    def cut_once(execute, sql, parameters, many, execution):
        if not done and sql.strip().startswith(statement):
            done.append(cut(committed_db))
        return execute(sql, parameters, many, execution)

    batch = messages(waiting())
    with connection.execute_wrapper(cut_once):
        assert len(handle_with_faults(Recorder(), batch)) == 1
    assert waiting() == []
    assert assert_log_is_whole() == 5


def test_a_connection_cut_in_the_middle_of_the_copy_loses_nothing(committed_db, monkeypatch):
    task_with_versions(120)
    batch = messages(waiting())
    made = []

    def cut_at_the_60th(record, inner=merkle.leaf_hash):
        made.append(record)
        if len(made) == 60:
            cut(committed_db)
        return inner(record)

    monkeypatch.setattr(merkle, "leaf_hash", cut_at_the_60th)
    assert len(handle_with_faults(Recorder(), batch)) == 1
    assert waiting() == []
    assert assert_log_is_whole() == 120


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_of_unknown_outcome_is_recorded_once_all_the_same(committed_db, monkeypatch, committed):
    task_with_versions(3)
    batch = messages(waiting())
    inner, faults = connection._commit, []

    def commit_and_fall_silent():
        if faults:
            return inner()
        faults.append(1)
        if committed:
            inner()
        cut(committed_db)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(connection, "_commit", commit_and_fall_silent)
    assert len(handle_with_faults(Recorder(), batch)) == 1
    assert waiting() == []
    assert not DeadLetter.objects.exists()
    assert assert_log_is_whole() == 3


def test_a_deadlock_is_tried_again(committed_db):
    task_with_versions(2)
    batch = messages(waiting())
    with psycopg.connect(committed_db) as other:
        other.execute("SET deadlock_timeout = '60s'")  # so that the recorder is the one that PostgreSQL ends
        other.execute("SELECT FROM tasks_outbox FOR UPDATE")
        waiter = threading.Thread(target=lambda: other.execute("SELECT FROM audit_log FOR UPDATE"))

        def meet(execute, sql, parameters, many, execution):
            if sql.strip().startswith("WITH wire") and waiter.ident is None:
                waiter.start()
                with psycopg.connect(committed_db, autocommit=True) as watcher:
                    while not watcher.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone():
                        pass
            return execute(sql, parameters, many, execution)

        with connection.execute_wrapper(meet), pytest.raises(OperationalError, match="deadlock") as caught:
            Recorder().handle(batch)
        waiter.join()
    assert Recorder().is_transient(caught.value)
    record(batch)
    assert assert_log_is_whole() == 2


def test_waiting_for_the_head_ends_so_that_a_stop_is_not_missed(committed_db, monkeypatch):
    task_with_versions(1)
    with psycopg.connect(committed_db) as other:
        other.execute("SELECT FROM audit_log FOR UPDATE")
        monkeypatch.setattr(ledger, "LOCK_TIMEOUT", "100ms")
        with pytest.raises(OperationalError, match="lock timeout") as caught:
            record(messages(waiting()))
    assert Recorder().is_transient(caught.value)
    record(messages(waiting()))
    assert assert_log_is_whole() == 1


def test_a_read_only_standby_is_a_passing_state(committed_db):
    task_with_versions(1)
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    batch = messages(waiting())
    with pytest.raises(Exception, match="read-only") as caught:
        record(batch)
    assert Recorder().is_transient(caught.value)
    connection.close()
    record(batch)
    assert assert_log_is_whole() == 1


def test_a_database_without_a_log_is_no_passing_fault(db):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_log RENAME TO elsewhere")
        cursor.execute("CREATE TABLE audit_log (LIKE elsewhere)")
    with pytest.raises(ledger.NoLog, match="migrate") as caught:
        record([message(b"x")])
    assert not Recorder().is_transient(caught.value)


# Several recorders.


def in_threads(*batches) -> None:
    errors = []

    def run(parts):
        try:
            handler = Recorder()
            for part in parts:
                while True:
                    try:
                        handler.handle(part)
                        break
                    except OperationalError as error:
                        if not handler.is_transient(error):
                            raise
                        connections.close_all()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[parts]) for parts in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def parts(batch, size):
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def test_recorders_at_once_with_the_same_messages(committed_db):
    task_with_versions(60)
    rows = waiting()
    in_threads(*(parts(messages(rows, partition=number), 7 + number) for number in range(3)))
    assert waiting() == []
    assert not DeadLetter.objects.exists()
    assert assert_log_is_whole() == 60


def test_recorders_at_once_with_different_messages(committed_db):
    tasks = [task_with_versions(10) for _ in range(6)]
    in_threads(*(parts([m for task in tasks[n::2] for m in messages(waiting(task.pk))], 4) for n in range(2)))
    assert waiting() == []
    assert assert_log_is_whole() == 60


def test_recorders_that_each_get_half_of_a_subject_record_what_is_in_order(committed_db):
    task = task_with_versions(20)
    rows = waiting()
    in_threads(parts(messages(rows[::2]), 3), parts(messages(rows[1::2], partition=1), 3))
    for _ in range(20):
        if rows := waiting():
            assert all(row.published_at is None for row in rows)
            record(messages(rows))
    assert versions(task.pk) == list(range(1, 21))
    assert_log_is_whole()


# Plans: with 100,000 waiting rows and statistics from when there were none, each look-up goes by an index.


def test_no_statement_reads_the_outbox_as_a_whole(committed_db):
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
        cursor.execute("SELECT event_id, digest FROM tasks_outbox WHERE id %% 50 = 0", [])
        rows = cursor.fetchall()
        ids = reconcile.uuid_array(row[0] for row in rows)
        digests = reconcile.bytea_array(bytes(row[1]) for row in rows)
        statements = [(reconcile._TAKE, [ids, digests]), (reconcile._SEND_AGAIN, {"ids": ids}), (reconcile._KNOWN, [ids, ids])]
        for mode in ("force_custom_plan", "force_generic_plan"):
            cursor.execute(f"SET plan_cache_mode = {mode}")
            for statement, parameters in statements:
                with transaction.atomic():
                    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
                    plan = cursor.fetchone()[0][0]
                    transaction.set_rollback(True)
                assert "tasks_outbox" not in {
                    node.get("Relation Name") for node in nodes(plan["Plan"]) if node["Node Type"] == "Seq Scan"
                }, (mode, statement)


def nodes(plan: dict):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
