"""`manage.py consume_events`: killed, stopped, run once; nothing is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer
from django.conf import settings as django_settings
from django.db import connection

from audit.models import Entry
from taskpulse import kafka
from tests.consuming import WAIT, committed_offsets, publish, steps_until, until
from tests.recording import assert_log_is_whole, task_with_versions, waiting

ROOT = Path(__file__).resolve().parent.parent


def somebody_waits_for_a_lock(session: psycopg.Connection) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    session.execute("SELECT pg_stat_clear_snapshot()")  # in one transaction the view stays as it was first seen
    return session.execute(waiting).fetchone() is not None


def start(*arguments, **variables) -> subprocess.Popen:
    environment = os.environ | {
        "KAFKA_TOPIC": django_settings.KAFKA_TOPIC,
        "KAFKA_AUDIT_GROUP": django_settings.KAFKA_AUDIT_GROUP,
        "TASKPULSE_HOME": str(django_settings.TASKPULSE_HOME),
        **variables,
    }
    command = [sys.executable, "manage.py", "consume_events", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def process():
    started = []

    def make(*arguments, **variables):
        started.append(start(*arguments, **variables))
        return started[-1]

    yield make
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def test_a_killed_consumer_repeats_and_loses_nothing(committed_db, topic, process):
    task_with_versions(40)
    rows = waiting()
    publish(rows)
    with psycopg.connect(committed_db) as session:
        # The process is killed while its transaction stands open, and again right after a commit.
        session.execute("SELECT FROM audit_log FOR UPDATE")
        first = process()
        until(lambda: somebody_waits_for_a_lock(session), "the batch")
        first.kill()
        first.wait()
    assert waiting() == rows
    second = process()
    until(lambda: Entry.objects.exists(), "the commit")
    second.kill()
    second.wait()
    third = process("--until-caught-up")
    out, err = third.communicate(timeout=WAIT)
    assert (third.returncode, out) == (0, "caught up\n"), err
    assert waiting() == []
    assert assert_log_is_whole() == 40


@pytest.mark.skipif(bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS")), reason="what the embedded broker is asked for")
def test_on_the_embedded_broker_a_killed_consumer_is_succeeded_within_seconds(committed_db, topic, process, opened):
    """With Kafka's session of 6 s it took 6 to 12: see tests/kafka/test_static_membership.py for Kafka."""
    first = process()
    task_with_versions(1)
    publish(waiting())
    until(lambda: not waiting(), "recorded")
    first.kill()
    first.wait()
    started = time.monotonic()
    task_with_versions(1)
    publish(waiting())
    steps_until(opened(), lambda: not waiting(), "recorded by another")
    assert time.monotonic() - started < 5


def test_sigterm_finishes_the_batch_leaves_the_group_and_ends(committed_db, topic, process, opened):
    task_with_versions(10)
    publish(waiting())
    consumer = process()
    until(lambda: not waiting(), "recorded")
    started = time.monotonic()
    consumer.send_signal(signal.SIGTERM)
    _, err = consumer.communicate(timeout=25)
    assert consumer.returncode == 0, err
    assert time.monotonic() - started < 10
    assert sum(committed_offsets().values()) == 10
    # It left the group: the next one gets the partitions without waiting for a session to expire.
    started = time.monotonic()
    after = opened()
    steps_until(after, lambda: len(after._member.client.assignment()) == 4, "the partitions")
    assert time.monotonic() - started < 5.5


def test_of_two_that_run_the_other_records_within_two_seconds_of_a_sigterm(committed_db, topic, process, opened):
    """What the one that ends had is recorded by the one that stays, which waits for no session to end."""
    ends, stays = process(), opened()
    steps_until(stays, lambda: len(stays._member.client.assignment()) == 2, "half of the partitions")
    for partition in range(4):
        task_with_versions(1)
        publish(waiting()[-1:], partition)
    steps_until(stays, lambda: not waiting(), "each records what is its")
    for _ in range(4):
        task_with_versions(1)
    rows, producer = waiting(), Producer(kafka.producer_settings())
    producer.list_topics(topic, WAIT)
    ends.send_signal(signal.SIGTERM)
    started = time.monotonic()
    for partition, row in enumerate(rows):
        producer.produce(topic, bytes(row.payload), str(row.subject_id), partition=partition)
    assert producer.flush(WAIT) == 0
    steps_until(stays, lambda: not waiting(), "all of it recorded")
    assert time.monotonic() - started < 2
    assert ends.wait(25) == 0
    assert assert_log_is_whole() == 8


def test_sigterm_while_the_database_is_away_ends_in_time_and_a_second_signal_at_once(committed_db, topic, process):
    task_with_versions(1)
    publish(waiting())
    with psycopg.connect(committed_db) as session:
        session.execute("SELECT FROM audit_log FOR UPDATE")
        patient, hasty = process(), None
        until(lambda: somebody_waits_for_a_lock(session), "the batch")
        started = time.monotonic()
        patient.send_signal(signal.SIGTERM)
        _, err = patient.communicate(timeout=25)
        assert patient.returncode == 0, err
        assert "not committed" in err
        assert 0 < time.monotonic() - started < 25
        hasty = process()
        until(lambda: somebody_waits_for_a_lock(session), "the batch")
        started = time.monotonic()
        hasty.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        hasty.send_signal(signal.SIGTERM)
        hasty.communicate(timeout=25)
        assert hasty.returncode == 128 + signal.SIGTERM
        assert time.monotonic() - started < 3
    assert len(waiting()) == 1


def test_once_handles_one_batch_or_waits_in_vain(committed_db, topic, process):
    empty = process("--once", "--wait", "1")
    out, err = empty.communicate(timeout=WAIT)
    assert (empty.returncode, out) == (0, "handled 0 messages\n"), err
    task_with_versions(3)
    publish(waiting(), partition=1)
    once = process("--once")
    out, err = once.communicate(timeout=WAIT)
    assert (once.returncode, out) == (0, "handled 3 messages\n"), err
    assert assert_log_is_whole() == 3
    assert committed_offsets()[1] == 3


def test_too_many_held_rows_stop_the_consumer_and_it_says_why(committed_db, topic, process):
    for _ in range(3):
        task_with_versions(1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE task_audit_log_00000 ADD CONSTRAINT bad_deploy CHECK (version > 1)")
    publish(waiting())
    consumer = process(TASKPULSE_MAX_HELD_ROWS="2")
    _, err = consumer.communicate(timeout=WAIT)
    assert consumer.returncode != 0
    assert "MAX_HELD_ROWS" in err.splitlines()[-1]
    assert "bad_deploy" in err.splitlines()[-1]
    assert sorted(row.held_at is not None for row in waiting()) == [False, True, True]


def test_without_a_broker_it_says_what_to_set(committed_db, process, tmp_path):
    consumer = process("--once", KAFKA_BOOTSTRAP_SERVERS="", TASKPULSE_HOME=str(tmp_path))
    _, err = consumer.communicate(timeout=WAIT)
    assert consumer.returncode != 0
    assert "KAFKA_BOOTSTRAP_SERVERS" in err.splitlines()[-1]
