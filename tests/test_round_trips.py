"""Statements that share a round trip: which go together, in what order, and what becomes of their errors."""

from datetime import UTC, datetime

import psycopg
import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import Transformer
from psycopg.pq import TransactionStatus
from psycopg.types.datetime import TimestamptzLoader

from taskpulse.postgresql.round_trips import RoundTrips
from taskpulse.postgresql.timestamps import UtcLoader
from tasks import context, statements
from tasks.models import OutboxEvent, Task
from tests.api_client import api
from tests.running_up import wait_until

_INSERT = "INSERT INTO tasks_kept_answer (digest, user_id, fingerprint, status, headers, body) VALUES (%s, 1, '', 200, '{}', %s)"
_COUNT = "SELECT count(*) FROM tasks_kept_answer"


@pytest.fixture
def trips(monkeypatch):
    """The statements of each round trip, in order."""
    seen, queued, send, queue = [], [], RoundTrips._send, RoundTrips._queue

    def watch(self, sent):
        try:
            return send(self, sent)
        finally:
            seen.append(queued.copy())
            queued.clear()

    def note(self, pgconn, statement):
        queued.append(statement.sql.split()[0].decode())
        return queue(self, pgconn, statement)

    monkeypatch.setattr(RoundTrips, "_send", watch)
    monkeypatch.setattr(RoundTrips, "_queue", note)
    return seen


def test_a_creation_is_two_round_trips(committed_db, trips):
    Task.objects.create(title="One")
    assert trips == [["BEGIN", "INSERT"], ["INSERT", "COMMIT"]]
    assert OutboxEvent.objects.count() == 1


def test_by_the_api_a_creation_is_one_and_a_change_two(committed_db, trips):
    ana = api()
    task = ana.create()
    assert trips[-1] == ["INSERT", "INSERT"]
    path = f"/api/tasks/{task['id']}"
    assert ana.patch(path, {"title": "Two"}).status_code == 200
    assert trips[-2:] == [["BEGIN", "UPDATE"], ["INSERT", "COMMIT"]]
    assert ana.patch(path, {"title": "Three"}, If_Match='"2"').status_code == 200
    assert trips[-2:] == [["BEGIN", "SELECT"], ["UPDATE", "INSERT", "COMMIT"]]
    assert ana.patch(path, {"status": "completed"}).status_code == 200
    assert trips[-2:] == [["BEGIN", "SELECT"], ["UPDATE", "INSERT", "COMMIT"]]


@pytest.mark.parametrize("way", ["execute", "executemany", "copy"])
def test_what_waits_goes_before_whatever_comes_next(committed_db, way):
    with transaction.atomic():
        connection.send_later(_INSERT, [b"1", b""])
        with connection.cursor() as cursor:
            if way == "execute":
                cursor.execute(_COUNT)
                assert cursor.fetchone() == (1,)
            elif way == "executemany":
                cursor.executemany("UPDATE tasks_kept_answer SET status = %s", [(201,), (202,)])
                assert cursor.rowcount == 2
            else:
                with cursor.copy("COPY (SELECT count(*) FROM tasks_kept_answer) TO STDOUT") as copy:
                    assert b"".join(copy) == b"1\n"
        assert connection.connection.round_trips.waiting == 0


def test_outside_of_a_transaction_nothing_waits(committed_db):
    connection.send_later(_INSERT, [b"1", b""])
    assert connection.fetch(_COUNT, []) == [(1,)]


def test_an_error_of_what_waits_comes_with_the_commit_and_nothing_is_committed(committed_db):
    connection.fetch(_INSERT, [b"1", b""])
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        connection.send_later(_INSERT, [b"2", b""])
        connection.send_later(_INSERT, [b"1", b""])
    assert caught.value.__cause__.diag.constraint_name == "tasks_kept_answer_pkey"
    assert connection.fetch(_COUNT, []) == [(1,)]


def test_what_goes_in_one_trip_is_committed_as_a_whole_or_not_at_all(committed_db, trips):
    with pytest.raises(IntegrityError), transaction.atomic():
        connection.send_later(_INSERT, [b"1", b""])
        connection.send_later(_INSERT, [b"2", b""])
        connection.send_later(_INSERT, [b"1", b""])
    assert trips == [["INSERT"] * 3]
    assert connection.fetch(_COUNT, []) == [(0,)]


def test_what_only_a_commit_finds_out_is_raised_by_it(committed_db, trips):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE deferred (id int PRIMARY KEY, other int REFERENCES deferred DEFERRABLE INITIALLY DEFERRED)")
    trips.clear()
    with transaction.atomic():
        connection.send_later("INSERT INTO deferred VALUES (1, 2)", [])
        connection.send_later("INSERT INTO deferred VALUES (2, 1)", [])
    with pytest.raises(IntegrityError, match="deferred_other_fkey"), transaction.atomic():
        connection.send_later("INSERT INTO deferred VALUES (3, 3)", [])
        connection.send_later("INSERT INTO deferred VALUES (4, 5)", [])
    assert trips == [["INSERT", "INSERT"]] * 2
    assert connection.fetch("SELECT array_agg(id ORDER BY id) FROM deferred", []) == [([1, 2],)]


# ---- what goes ahead


def _backend() -> int:
    return connection.connection.info.backend_pid


def test_postgresql_works_on_the_first_while_the_others_are_made(committed_db):
    with psycopg.connect(committed_db, autocommit=True) as other, transaction.atomic():
        connection.send_later("SELECT pg_advisory_xact_lock(4711)", [])
        found = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND granted"
        wait_until(lambda: other.execute(found).fetchone() == (1,), 10, "the lock is held")
        connection.send_later(_INSERT, [b"1", b""])
        assert other.execute(_COUNT).fetchone() == (0,)
    assert connection.fetch(_COUNT, []) == [(1,)]


def test_nothing_goes_ahead_where_others_go_on(committed_db, trips, monkeypatch):
    monkeypatch.setattr("taskpulse.turns.others_go_on", lambda: True)
    with transaction.atomic():
        connection.send_later(_INSERT, [b"1", b""])
        assert connection.connection.pgconn.transaction_status == TransactionStatus.IDLE
        connection.send_later(_INSERT, [b"2", b""])
    assert trips == [["INSERT", "INSERT"]]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        connection.send_later(_INSERT, [b"3", b""])
        raise ZeroDivisionError
    with transaction.atomic():
        connection.send_later(_INSERT, [b"3", b""])
        assert connection.fetch(_COUNT, []) == [(3,)]
    assert trips[1:] == [["BEGIN", "INSERT", "SELECT"], ["COMMIT"]]


def test_what_went_ahead_is_undone_with_the_rest(committed_db, trips):
    connection.fetch(_COUNT, [])
    backend = _backend()
    trips.clear()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        connection.send_later(_INSERT, [b"1", b""])
        connection.send_later(_INSERT, [b"2", b""])
        raise ZeroDivisionError
    assert trips == [["INSERT", "BEGIN", "ROLLBACK"]]
    assert (connection.fetch(_COUNT, []), _backend()) == ([(0,)], backend)


def test_what_went_ahead_and_failed_is_undone_too(committed_db):
    connection.fetch(_INSERT, [b"1", b""])
    backend = _backend()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        connection.send_later(_INSERT, [b"1", b""])
        raise ZeroDivisionError
    assert (connection.fetch(_COUNT, []), _backend()) == ([(1,)], backend)


@pytest.mark.parametrize("fails", [False, True])
def test_more_trips_are_one_transaction_with_what_went_ahead(committed_db, trips, fails):
    try:
        with transaction.atomic():
            connection.send_later(_INSERT, [b"1", b""])
            assert connection.fetch(_COUNT, []) == [(1,)]
            connection.send_later(_INSERT, [b"2", b""])
            assert not fails or 1 / 0
    except ZeroDivisionError:
        pass
    assert trips == [["INSERT", "BEGIN", "SELECT"], *([] if fails else [["INSERT", "COMMIT"]])]
    assert connection.fetch(_COUNT, []) == [(0 if fails else 2,)]


def test_a_savepoint_is_of_one_transaction_with_what_went_ahead(committed_db):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        connection.send_later(_INSERT, [b"1", b""])
        with transaction.atomic():
            connection.send_later(_INSERT, [b"2", b""])
        raise ZeroDivisionError
    assert connection.fetch(_COUNT, []) == [(0,)]


def test_of_who_is_killed_nothing_that_went_ahead_stays(committed_db):
    with psycopg.connect(committed_db, autocommit=True) as other:
        with pytest.raises(DatabaseError), transaction.atomic():
            connection.send_later(_INSERT, [b"1", b""])
            backend = _backend()
            connection.connection.pgconn.finish()
        gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: other.execute(gone, [backend]).fetchone() == (0,), 10, "the session has ended")
        assert other.execute(_COUNT).fetchone() == (0,)


def test_a_session_that_ends_after_it_went_ahead_is_an_error_of_the_commit(committed_db):
    connection.fetch(_COUNT, [])
    with psycopg.connect(committed_db, autocommit=True) as other:
        with pytest.raises(OperationalError), transaction.atomic():
            connection.send_later(_INSERT, [b"1", b""])
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [_backend()])
        assert other.execute(_COUNT).fetchone() == (0,)
    assert connection.fetch(_COUNT, []) == [(0,)]


def test_what_goes_ahead_on_a_session_that_is_gone_is_an_error_of_the_commit(committed_db):
    connection.fetch(_COUNT, [])
    with psycopg.connect(committed_db, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [_backend()])
        with pytest.raises(OperationalError), transaction.atomic():
            connection.send_later(_INSERT, [b"1", b""])
            connection.send_later(_INSERT, [b"2", b""])
    assert connection.fetch(_COUNT, []) == [(0,)]


def test_an_error_of_what_waits_undoes_its_savepoint_alone(committed_db):
    with transaction.atomic():
        connection.fetch(_INSERT, [b"1", b""])
        with pytest.raises(IntegrityError), transaction.atomic():
            connection.send_later(_INSERT, [b"1", b""])
        connection.send_later(_INSERT, [b"2", b""])
    assert connection.fetch(_COUNT, []) == [(2,)]


def test_what_waits_is_rolled_back_with_the_rest(committed_db):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        connection.fetch(_INSERT, [b"1", b""])
        connection.send_later(_INSERT, [b"2", b""])
        raise ZeroDivisionError
    assert connection.fetch(_COUNT, []) == [(0,)]


def test_after_an_error_the_transaction_takes_nothing_more(committed_db):
    with pytest.raises(DatabaseError), transaction.atomic():
        with pytest.raises(DatabaseError):
            connection.fetch("SELECT 1 / 0", [])
        connection.fetch("SELECT 1", [])
    assert connection.fetch("SELECT 1", []) == [(1,)]


def test_what_psycopg_deallocates_is_prepared_anew(committed_db):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            for _ in range(4):  # psycopg prepares what it sees a third time, and on a rollback it forgets, for the whole session
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            assert connection.fetch("SELECT %s::int", [2]) == [(2,)]
            raise ZeroDivisionError
        assert connection.fetch("SELECT %s::int", [2]) == [(2,)]


def test_no_more_than_a_hundred_are_prepared(committed_db):
    for number in range(120):
        assert connection.fetch(f"SELECT %s::int + {number}", [1]) == [(1 + number,)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'taskpulse%'")
        assert cursor.fetchone() == (100,)


def test_parameters_that_are_no_values_cost_no_connection(committed_db):
    session = connection.fetch("SELECT pg_backend_pid()", [])
    with transaction.atomic():
        connection.fetch(_INSERT, [b"1", b""])
        for send in (connection.fetch, connection.send_later):
            with pytest.raises((DatabaseError, ValueError)):
                send("SELECT %s::text", ["a\0b"])
    assert connection.fetch(_COUNT, []) == [(1,)]
    assert connection.fetch("SELECT pg_backend_pid()", []) == session


def test_a_session_that_ends_is_told_and_replaced(committed_db):
    with pytest.raises(OperationalError), transaction.atomic():
        ((session,),) = connection.fetch("SELECT pg_backend_pid()", [])
        with psycopg.connect(committed_db, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [session])
        connection.send_later(_INSERT, [b"1", b""])
    assert connection.fetch(_COUNT, []) == [(0,)]


def test_more_than_the_sockets_hold_both_ways(committed_db):
    large = b"x" * 20_000_000
    assert connection.fetch("SELECT %s::bytea", [large]) == [(large,)]


def test_a_second_transaction_is_told_who_acts_though_its_first_statement_tells_itself(committed_db):
    context.set_process_actor("test")
    task = Task.objects.create(title="One")
    for title in ("Two", "Three"):
        with transaction.atomic():
            task.due_at = datetime(2027, 1, 1, tzinfo=UTC)
            task.save()
            with connection.cursor() as cursor:
                cursor.execute("UPDATE tasks_task SET title = %s", [title])
            task.refresh_from_db()
    said = [event.payload for event in OutboxEvent.objects.order_by("id")]
    assert len(said) == 4
    assert all(b'"actorid":"system:test"' in bytes(payload) for payload in said)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))))
@pytest.mark.django_db
def test_any_texts_make_an_array(texts):
    assert connection.fetch("SELECT %s::text[]", [statements._array(texts)]) == [(texts,)]


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_read_as_psycopg_reads_it(moment):
    written = moment.isoformat(" ").replace("+00:00", "+00").encode()
    if moment.microsecond:
        written = written.replace(b"+00", b"").rstrip(b"0") + b"+00"  # PostgreSQL writes no more digits than it needs
    read = _loader(UtcLoader).load(written)
    assert read == moment == _loader(TimestamptzLoader).load(written)
    assert read.tzinfo is UTC


@pytest.mark.parametrize("written", [b"10000-01-01 00:00:00+00", b"0044-03-15 00:00:00+00 BC", b"infinity"])
def test_a_time_that_python_has_not_is_refused_as_psycopg_refuses_it(written):
    for kind in (UtcLoader, TimestamptzLoader):
        with pytest.raises(psycopg.DataError):
            _loader(kind).load(written)


def _loader(kind):
    return kind(psycopg.adapters.types["timestamptz"].oid, Transformer())
