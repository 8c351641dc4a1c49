"""Faults that pass: a connection that is cut, a commit of unknown outcome, a deadlock, a standby."""

import threading

import psycopg
import pytest
from django.db import OperationalError, connection

from audit import ledger, merkle
from audit.models import DeadLetter
from audit.recorder import Recorder
from tests.recording import (
    assert_log_is_whole,
    message,
    messages,
    record,
    task_with_versions,
    waiting,
)


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
