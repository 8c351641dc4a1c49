"""True events that the log cannot take are held, and what follows them waits for their release."""

import json
import uuid

import pytest
from django.db import connection

from audit.models import DeadLetter
from audit.recorder import Received, Recorder, TooManyHeld
from tasks import context, events
from tasks.models import OutboxEvent, Task
from tests.recording import (
    add_outbox_row,
    assert_log_is_whole,
    forged,
    message,
    messages,
    publish_all,
    record,
    recorded,
    task_with_versions,
    versions,
    waiting,
)


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
    assert not Recorder()._hold(Received(message(bytes(row.payload)), row.event_id.bytes, b"\0" * 32), "a reason")
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


def test_a_true_row_that_is_no_event_of_the_contract_is_held(db):
    good = task_with_versions(1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_outbox DISABLE TRIGGER taskpulse_true")
    key = uuid.uuid4()
    payload = events.canonical(json.loads(forged(id=str(key), subject="task/1", data={}, specversion="2.0")))
    add_outbox_row(payload, event_id=key, subject_id="1", version=1)
    record([message(payload), *messages(waiting(good.pk))])
    assert recorded() == [(str(good.pk), 1)]
    (held,) = waiting()
    assert held.held_reason == "specversion is not 1.0"


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
