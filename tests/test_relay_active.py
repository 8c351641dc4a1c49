"""One relay is active: who takes over, when, and what becomes of a batch in hand."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
from django.core.management import call_command
from django.db import connection

from taskpulse import kafka
from taskpulse.worker import Stop
from tasks import active_lock, delivery, relay
from tasks.active_lock import ActiveLock
from tasks.relay import Relay
from tests.relaying import add, drain, unpublished, until, versions

ROOT = Path(__file__).resolve().parent.parent

# One active


def test_one_is_active_and_the_other_waits(start_relay):
    first, second = start_relay(), start_relay()
    first.step()
    assert not second.step()
    assert (first.active, second.active, second.pause) == (True, False, relay.STANDBY_POLL)
    add(("a", 1))
    assert not second.step()
    assert unpublished() == [("a", 1)]
    first.close()
    until(second.step)
    assert unpublished() == []


def test_who_loses_the_lock_stops_at_once_and_competes_again(start_relay, topic, committed_db):
    first, second = start_relay(), start_relay()
    first.step()
    add(("a", 1))
    terminate_lock_session(committed_db)
    until(lambda: not first._lock.held())
    second.step()
    assert second.active
    add(("a", 2))
    assert not first.step()
    assert not first.active
    drain(second)
    assert versions(topic) == {"a": [1, 2]}
    second.close()
    add(("a", 3))
    until(lambda: first.step())
    assert first.active


def test_who_loses_the_lock_in_mid_batch_gives_the_batch_up(start_relay, committed_db, faulty_broker):
    one = start_relay()
    drain(one)
    a_minute = 60_000
    faulty_broker.delay(a_minute)
    add(("a", 1))
    loss = threading.Timer(0.5, terminate_lock_session, [committed_db])
    loss.start()
    begin = time.monotonic()
    assert not one.step()
    assert time.monotonic() - begin < delivery.DELIVERY_TIMEOUT / 2
    loss.join()
    assert unpublished() == [("a", 1)]


def test_who_gives_no_sign_for_the_length_of_a_lease_loses_the_lock(committed_db):
    """As one that was stopped by SIGSTOP, or whose machine is; who gives signs keeps it."""
    one, another = ActiveLock("lease", 0.8), ActiveLock("lease", 0.8)
    assert one.acquire()
    for _ in range(20):
        time.sleep(0.1)
        assert one.held()
        assert not another.acquire()
    time.sleep(1.2)
    assert another.acquire()
    assert not one.held()
    assert not one.acquire()
    another.release()
    until(one.acquire)
    assert not another.acquire()
    for lock in (one, another):
        lock.release()


def test_a_server_that_does_not_answer_keeps_nobody_waiting_who_gives_signs(committed_db, monkeypatch):
    monkeypatch.setattr(active_lock, "_SIGN", b"SELECT pg_sleep(20)")
    lock = ActiveLock("lease", 2)
    assert lock.acquire()
    time.sleep(0.6)
    began = time.monotonic()
    assert lock.held()
    assert lock.held()
    assert time.monotonic() - began < 1
    until(lambda: not lock.held())  # it counts as lost when no sign could be given for so long
    lock.release()


def terminate_lock_session(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        ended = session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'taskpulse relay lock' AND datname = current_database()"
        )
        assert ended.fetchall()


@contextmanager
def relay_process(settings):
    # The database is in the environment: the fixture puts it there.
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers(),
        "KAFKA_TOPIC": settings.KAFKA_TOPIC,
        "KAFKA_AUDIT_GROUP": settings.KAFKA_AUDIT_GROUP,
    }
    process = subprocess.Popen(
        [sys.executable, "manage.py", "relay_outbox"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def original_signal_handlers():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def lock_holders() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        )
        return cursor.fetchone()[0]


def test_a_standby_takes_over_within_two_seconds_of_a_kill(start_relay, topic, settings):
    with relay_process(settings) as active:
        add(("a", 1))
        until(lambda: unpublished() == [], 20)
        standby = start_relay()
        assert not standby.step()
        active.send_signal(signal.SIGKILL)
        begin = time.monotonic()
        add(("a", 2))
        stop = Stop()
        while unpublished():
            if not standby.step():
                stop.sleep(standby.pause)
        assert time.monotonic() - begin < 2
    assert versions(topic) == {"a": [1, 2]}


def test_a_standby_takes_over_within_two_seconds_of_a_sigterm(start_relay, topic, settings):
    with relay_process(settings) as active:
        add(("a", 1))
        until(lambda: unpublished() == [], 20)
        standby = start_relay()
        assert not standby.step()
        active.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        add(("a", 2))
        stop = Stop()
        while unpublished() or not standby.active:
            if not standby.step():
                stop.sleep(standby.pause)
        assert time.monotonic() - begin < 2
        assert active.wait(10) == 0
    assert versions(topic)["a"][:2] == [1, 2]


def test_a_stop_gives_a_batch_up_that_the_broker_does_not_answer(start_relay, faulty_broker):
    """Else a broker that is away would hold up the hand-over for as long as a delivery may take."""
    stop = Stop()
    one = start_relay(stop)
    drain(one)
    faulty_broker.delay(60_000)
    add(("a", 1))
    request = threading.Timer(0.3, lambda: setattr(stop, "requested", True))
    request.start()
    begin = time.monotonic()
    assert not one.step()
    one.close()
    assert time.monotonic() - begin < delivery.DELIVERY_TIMEOUT / 2
    assert unpublished() == [("a", 1)]


def test_the_command_hands_its_stop_to_the_relay(committed_db, topic, monkeypatch):
    """What asks for it in the middle of a step must see the signal."""
    seen = []

    def step(self):
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(self._stop.requested)
        return True

    monkeypatch.setattr(Relay, "step", step)
    with original_signal_handlers():
        call_command("relay_outbox")
    assert seen == [True]


def test_sigterm_ends_the_command_and_frees_the_lock(committed_db, topic, settings):
    with relay_process(settings) as process:
        add(("a", 1))
        until(lambda: unpublished() == [], 20)
        assert lock_holders() == 1
        process.terminate()
        assert process.wait(10) == 0
        until(lambda: lock_holders() == 0)


def test_the_command_stops_between_steps(committed_db, topic, monkeypatch):
    steps = []

    def step(self):
        steps.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(Relay, "step", step)
    with original_signal_handlers():
        call_command("relay_outbox")
    assert steps == [True]
