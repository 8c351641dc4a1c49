"""The relay's horizon: what is dead below it costs nothing, and nothing that lives is overlooked."""

import json
import uuid
from datetime import UTC, datetime

import psycopg
import pytest
from django.db import connection
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import barrier, horizon, relay_queue
from tasks.horizon import Horizon
from tasks.models import OutboxEvent
from tasks.relay_queue import Queue
from tests.relaying import add, drain, unpublished, until, versions

_INSERT = (
    "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload) VALUES (%s, 'task', %s, 1, %s) RETURNING id"
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(horizon, "INTERVAL", 0.0)


def due(found: Horizon) -> list[int]:
    return [row.id for row in Queue(found).due(1_000, 10**9, ())]


def insert(session) -> int:
    key = uuid.uuid4()
    return session.execute(_INSERT, [key, str(key), json.dumps({"id": str(key)})]).fetchone()[0]


def highest() -> int:
    return OutboxEvent.objects.order_by("-id").values_list("id", flat=True).first() or 0


def execute(statement: str, *parameters) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def record(*ids: int) -> None:
    execute("DELETE FROM tasks_outbox WHERE id = ANY (%s)", list(ids))


def advanced(found: Horizon, seen: int, times: int = 2) -> Horizon:
    for _ in range(times):
        found.advance(seen)
    return found


def test_it_passes_what_is_gone(committed_db):
    ids = add(("a", 1), ("b", 1))
    record(*ids)
    (last,) = add(("c", 1))
    found = advanced(Horizon(), ids[-1])
    assert (found.above, found.stragglers) == (ids[-1], "{}")
    assert due(found) == [last]


def test_a_row_that_is_committed_late_is_not_passed(committed_db):
    """Its id was drawn first, and others saw a later one."""
    with psycopg.connect(committed_db) as slow:
        late = insert(slow)
        (seen,) = add(("b", 1))
        assert late < seen
        record(seen)
        found = advanced(Horizon(), seen, 5)
        assert found.above < late
    assert due(found) == [late]
    advanced(found, seen)
    assert found.above == seen
    assert due(found) == [late]
    record(late)
    assert advanced(found, seen).stragglers == "{}"


def test_other_transactions_and_old_snapshots_do_not_hold_it_up(committed_db):
    with psycopg.connect(committed_db) as reader, psycopg.connect(committed_db) as writer:
        reader.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM tasks_outbox")
        writer.execute("INSERT INTO auth_group (name) VALUES ('x')")
        (seen,) = add(("a", 1))
        record(seen)
        assert advanced(Horizon(), seen).above == seen


def test_a_held_row_stays_within_sight_and_keeps_nothing_else(committed_db):
    held, other = add(("a", 1), ("b", 1))
    execute("UPDATE tasks_outbox SET held_at = now(), held_reason = 'x' WHERE id = %s", held)
    record(other)
    found = advanced(Horizon(), other)
    assert found.above == other
    assert due(found) == []
    execute("UPDATE tasks_outbox SET held_at = NULL, held_reason = NULL WHERE id = %s", held)
    (new,) = add(("c", 1))
    assert due(found) == [held, new]


def test_with_many_alive_it_waits(committed_db, monkeypatch):
    monkeypatch.setattr(horizon, "MOST_STRAGGLERS", 2)
    ids = add(("a", 1), ("b", 1), ("c", 1))
    found = advanced(Horizon(), ids[-1], 4)
    assert found.above == 0
    record(ids[0])
    assert advanced(found, ids[-1]).above == ids[-1]
    assert due(found) == ids[1:]


SESSIONS = ["begin 0", "begin 1", "end 0", "end 1", "undo 1"]
STEPS = st.lists(
    st.sampled_from([*SESSIONS, "add", "publish", "record", "hold", "release", "again", "look"]), min_size=8, max_size=30
)


def test_it_hides_nothing_whatever_happens_in_which_order(committed_db):
    """What is due by the horizon is what is due without one, at each moment."""
    first = "WHERE id = (SELECT id FROM tasks_outbox WHERE {} ORDER BY id LIMIT 1)"
    published, held, not_held = map(first.format, ("published_at IS NOT NULL", "held_at IS NOT NULL", "held_at IS NULL"))
    statements = {
        "record": f"DELETE FROM tasks_outbox {published}",
        "hold": f"UPDATE tasks_outbox SET held_at = now(), held_reason = 'x', published_at = NULL {not_held}",
        "release": f"UPDATE tasks_outbox SET held_at = NULL, held_reason = NULL {held}",
        "again": f"UPDATE tasks_outbox SET published_at = NULL {published}",
    }
    sessions = [psycopg.connect(committed_db) for _ in range(2)]

    @hypothesis_settings(max_examples=10, deadline=None)
    @given(STEPS)
    def run(steps):
        found, seen = Horizon(), highest()
        for step in steps:
            what, _, number = step.partition(" ")
            if what == "begin":
                insert(sessions[int(number)])
            elif what in ("end", "undo"):
                sessions[int(number)].commit() if what == "end" else sessions[int(number)].rollback()
            elif what == "add":
                add((uuid.uuid4().hex, 1))
            elif what == "publish":
                sent = due(found)
                execute("UPDATE tasks_outbox SET published_at = now() WHERE id = ANY (%s)", sent)
                seen = max([seen, *sent])
            elif what == "look":
                found.advance(seen)
            else:
                execute(statements[what])
            assert due(found) == due(Horizon())
        for session in sessions:
            session.rollback()

    try:
        run()
    finally:
        for session in sessions:
            session.close()


@pytest.mark.parametrize("statement", ["poll", "waiting", "lost", "on the way"])
def test_what_is_dead_is_not_read_again(committed_db, statement):
    """Ten thousand dead versions of one busy task, which an open snapshot keeps."""
    with psycopg.connect(committed_db) as reader:
        reader.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM tasks_outbox")
        execute(
            "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload) "
            "SELECT id, 'task', 'busy', n, convert_to(json_build_object('id', id)::text, 'UTF8') "
            "FROM (SELECT uuidv7() AS id, n FROM generate_series(1, 5000) n) made"
        )
        execute("UPDATE tasks_outbox SET published_at = now(), attempts = 1")
        seen = highest()
        execute("DELETE FROM tasks_outbox")
        add(("busy", 5001))
        found = advanced(Horizon(), seen)
        assert _pages_read(statement, Horizon()) > 60
        assert _pages_read(statement, found) < 30


def _pages_read(statement: str, found: Horizon) -> int:
    text = {
        "poll": relay_queue._SELECT,
        "waiting": barrier._WAITING,
        "lost": barrier._REPUBLISH,
        "on the way": relay_queue._ON_THE_WAY,
    }
    parameters = {
        "except": "{}", "rows": 1_000, "bytes": 10**6, "overhead": 200, "alone": True, "highest": highest(), "age": 1,
        "limit": 1_000,
        "before": datetime.now(UTC), "longest": 60, **found.parameters(),
    }  # fmt: skip
    due(found)  # sets the session up
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text[statement]}", parameters)
        plan = cursor.fetchone()[0][0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def test_vacuum_goes_by_the_number_of_dead_rows(db):
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE oid = 'tasks_outbox'::regclass")
        assert set(cursor.fetchone()[0]) >= {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=2000"}


@pytest.fixture
def standby(start_relay, committed_db):
    """One that has seen rows come and go beside the active relay: its horizon is at the last of them, which lives."""
    active, one = start_relay(), start_relay()
    active.step()
    ids = add(*(("a", version) for version in range(1, 21)))
    one.step()
    record(*ids[:-1])
    one.step()
    assert (one.active, one._horizon.above, one._horizon.stragglers) == (False, ids[-1], f"{{{ids[-1]}}}")
    return active, one


def test_a_standby_takes_over_with_the_horizon_that_it_kept(standby, topic):
    active, one = standby
    kept = one._horizon.above
    active.close()
    until(lambda: one.step() or one.active)
    assert one._horizon.above >= kept
    assert one._window.highest >= kept
    drain(one)
    assert unpublished() == []
    assert versions(topic) == {"a": [20]}


def test_what_was_seen_in_another_session_is_forgotten(standby):
    active, one = standby
    connection.close()
    one.step()
    assert one._horizon.above == 0
    active.close()
    connection.close()
    until(lambda: one.step() or one.active)
    assert unpublished() == []


def test_the_highest_that_was_published_is_no_lower_than_the_horizon(committed_db):
    ids = add(("a", 1), ("b", 1), ("c", 1))
    execute("UPDATE tasks_outbox SET published_at = now() WHERE id = %s", ids[1])
    assert Queue().highest_published() == ids[1]
    found = advanced(Horizon(), ids[0])
    assert Queue(found).highest_published() == ids[1]
    advanced(found, ids[2])
    assert Queue(found).highest_published() == ids[2]
