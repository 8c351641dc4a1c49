"""Promise 3, the loop's side: offsets after the transaction, and nothing lost or doubled by kills, rebalances and outages."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from django.conf import settings as django_settings
from django.db import OperationalError, connection, connections

from audit import merkle
from audit.models import Entry
from audit.recorder import Recorder
from taskpulse import event_consumer, kafka
from taskpulse.event_consumer import EventConsumer, Interrupted
from taskpulse.worker import Stop
from tests.recording import assert_log_is_whole, task_with_versions, versions, waiting

ROOT = Path(__file__).resolve().parent.parent
# Seconds.
WAIT = 30


def publish(rows, partition: int | None = None) -> None:
    """As the relay does, without its bookkeeping."""
    producer = Producer(kafka.producer_settings())
    where = {} if partition is None else {"partition": partition}
    for row in rows:
        producer.produce(django_settings.KAFKA_TOPIC, bytes(row.payload), str(row.subject_id), **where)
    assert producer.flush(WAIT) == 0


def until(condition, what: str, seconds: float = WAIT):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return result


def committed_offsets() -> dict[int, int]:
    """What the group has committed, by partition; 0 for nothing."""
    reader = Consumer(kafka.consumer_settings(django_settings.KAFKA_AUDIT_GROUP))
    try:
        found = reader.committed([TopicPartition(django_settings.KAFKA_TOPIC, number) for number in range(4)], WAIT)
        return {p.partition: max(0, p.offset) for p in found}
    finally:
        reader.close()


class Opened:
    """EventConsumers of a test, closed at its end whatever happens."""

    def __init__(self):
        self._made: list[EventConsumer] = []

    def __call__(self, handler=None, **options) -> EventConsumer:
        consumer = EventConsumer(handler or Recorder(), **options)
        consumer.open()
        self._made.append(consumer)
        return consumer

    def close(self):
        for consumer in self._made:
            consumer.close()


@pytest.fixture
def opened():
    made = Opened()
    yield made
    made.close()


def steps_until(consumer: EventConsumer, condition, what: str):
    until(lambda: consumer.step(0.1) is not None and condition(), what)


# Handling and offsets.


def test_what_the_relay_publishes_is_recorded_and_then_committed(committed_db, topic, opened):
    task_with_versions(5)
    publish(waiting())
    consumer = opened()
    steps_until(consumer, lambda: not waiting(), "recorded")
    consumer.close()
    assert sum(committed_offsets().values()) == 5
    assert assert_log_is_whole() == 5


def test_offsets_are_committed_after_the_transaction_and_not_before(committed_db, topic, opened):
    """A handler that fails for good leaves the offsets where they were; the next consumer gets the messages again."""
    task_with_versions(3)
    publish(waiting())

    class Broken(Recorder):
        def handle(self, messages):
            super().handle(messages[:1])
            raise RuntimeError("cannot explain this")

    consumer = opened(Broken())
    with pytest.raises(RuntimeError, match="cannot explain"):
        steps_until(consumer, lambda: False, "the failure")
    consumer.close()
    assert sum(committed_offsets().values()) == 0
    steps_until(opened(), lambda: not waiting(), "recorded")
    assert assert_log_is_whole() == 3


def test_a_batch_is_bounded_in_messages_and_in_bytes(committed_db, topic, opened, monkeypatch):
    producer = Producer(kafka.producer_settings())
    for _ in range(60):
        producer.produce(topic, b"x" * 50_000, partition=1)
    assert producer.flush(WAIT) == 0
    sizes = []

    class Weigh:
        group = django_settings.KAFKA_AUDIT_GROUP

        def handle(self, messages):
            sizes.append((len(messages), sum(len(message.value()) for message in messages)))

        def is_transient(self, error):
            return False

    monkeypatch.setattr(event_consumer, "BATCH_BYTES", 500_000)
    consumer = opened(Weigh(), batch_size=40)
    consumer.step(WAIT)
    until(lambda: consumer.step(0.5) is not None and sum(n for n, _ in sizes) == 60, "all messages")
    assert max(size for _, size in sizes) <= 500_000 + event_consumer._DRAIN * 50_000
    monkeypatch.setattr(event_consumer, "BATCH_BYTES", 8_000_000)
    sizes.clear()
    producer.produce(topic, b"x", partition=1)
    for _ in range(100):
        producer.produce(topic, b"x", partition=1)
    assert producer.flush(WAIT) == 0
    until(lambda: consumer.step(0.5) is not None and sum(n for n, _ in sizes) == 101, "all messages")
    assert max(n for n, _ in sizes) <= 40


def test_a_refused_commit_is_made_up_for_without_new_messages(committed_db, topic, opened, monkeypatch):
    task_with_versions(2)
    publish(waiting(), partition=2)
    consumer = opened()
    real, refused = consumer._consumer, []

    class Refusing:
        """librdkafka's consumer, but the first commit fails as it does while a coordinator is loading."""

        def __getattr__(self, name):
            return getattr(real, name)

        def commit(self, **arguments):
            if not refused:
                refused.append(arguments)
                raise KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
            return real.commit(**arguments)

    consumer._consumer = Refusing()
    steps_until(consumer, lambda: not waiting() and refused, "recorded")
    consumer.step(0.1)
    until(lambda: consumer.step(0.1) == 0 and committed_offsets()[2] == 2, "the commit")


# Transient faults.


def test_a_transient_fault_is_tried_again_in_place_and_logged_once(committed_db, topic, opened, monkeypatch, caplog):
    task_with_versions(300)
    publish(waiting())
    consumer = opened()
    inner, leaves = merkle.leaf_hash, []

    def cut_at_100_and_at_150(record):
        leaves.append(record)
        if len(leaves) in (100, 250):
            with psycopg.connect(committed_db) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
        return inner(record)

    monkeypatch.setattr(merkle, "leaf_hash", cut_at_100_and_at_150)
    with caplog.at_level(logging.INFO, "taskpulse.consumer"):
        steps_until(consumer, lambda: len(leaves) > 250 and not waiting(), "recorded")
    assert assert_log_is_whole() == 300
    failures = [r for r in caplog.records if "trying again" in r.getMessage() and "handling" in r.getMessage()]
    successes = [r for r in caplog.records if "succeeded after" in r.getMessage()]
    assert 1 <= len(failures) == len(successes)
    assert len({r.getMessage() for r in failures}) <= 2


class Failing:
    """Fails in passing until told otherwise."""

    def __init__(self):
        self.group = django_settings.KAFKA_AUDIT_GROUP
        self.failing = True
        self.calls: list[list[tuple]] = []

    def handle(self, messages):
        self.calls.append([(m.partition(), m.offset()) for m in messages])
        if self.failing:
            raise OperationalError("the database is down")

    def is_transient(self, error):
        return isinstance(error, OperationalError)


def test_during_an_outage_of_the_database_the_membership_lives_and_nothing_is_skipped(committed_db, topic, opened, caplog):
    task_with_versions(4)
    publish(waiting())
    handler = Failing()
    consumer = opened(handler)
    timer = threading.Timer(7.5, lambda: setattr(handler, "failing", False))  # longer than the session's timeout of 6 s
    timer.start()
    with caplog.at_level(logging.INFO, "taskpulse.consumer"):
        steps_until(consumer, lambda: not handler.failing, "the end of the outage")
    first = handler.calls[0]
    failed = [call for call in handler.calls if call == first]
    assert 4 <= len(failed) < 40  # backed off
    consumer.step(0.5)
    consumer.close()
    assert sum(committed_offsets().values()) == 4
    assert [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()] == [
        f"handling a batch of {len(first)} failed, trying again: the database is down"
    ]


def test_a_stop_during_an_outage_commits_nothing(committed_db, topic, opened):
    task_with_versions(1)
    publish(waiting())
    stop = Stop()
    consumer = opened(Failing(), stop=stop)
    threading.Timer(2, lambda: setattr(stop, "requested", True)).start()
    with pytest.raises(Interrupted):
        steps_until(consumer, lambda: False, "the stop")
    consumer.close()
    assert sum(committed_offsets().values()) == 0


# Rebalances.


def test_two_consumers_share_the_partitions_and_a_rebalance_in_mid_batch_loses_and_doubles_nothing(committed_db, topic, opened):
    tasks = [task_with_versions(10) for _ in range(12)]
    publish(waiting())
    joined = threading.Event()
    seen: dict[str, set[int]] = {"first": set(), "second": set()}

    class Slow(Recorder):
        """The first batch lasts until the other consumer has asked to join."""

        def handle(self, messages):
            seen["first"] |= {m.partition() for m in messages}
            if not joined.is_set():
                joined.wait(WAIT)
                time.sleep(1)
            super().handle(messages)

    class Second(Recorder):
        def handle(self, messages):
            seen["second"] |= {m.partition() for m in messages}
            super().handle(messages)

    stop = Stop()
    errors = []

    def run_second():
        try:
            until(lambda: seen["first"], "the first consumer's batch")
            other = EventConsumer(Second(), stop)
            other.open()
            try:
                other.step(0.2)
                joined.set()
                other.run()
            finally:
                other.close()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run_second)
    thread.start()
    first = opened(Slow(), batch_size=20)
    steps_until(first, lambda: len(first._consumer.assignment()) == 2, "the sharing")
    more = [task_with_versions(5) for _ in range(12)]
    publish([row for task in more for row in waiting(task.pk)])

    def all_recorded():
        if rows := waiting():  # what came early was sent back; the relay would send it again
            unpublished = [row for row in rows if row.attempts == 0]
            publish(unpublished)
        return not rows

    steps_until(first, all_recorded, "recorded")
    stop.requested = True
    thread.join(WAIT)
    assert errors == []
    assert len(seen["second"]) >= 1
    assert all(versions(task.pk) == list(range(1, 11)) for task in tasks)
    assert assert_log_is_whole() == 12 * 15


def test_what_a_rebalance_took_is_not_committed(committed_db, topic, opened):
    task_with_versions(2)
    publish(waiting(), partition=0)

    class Losing(Recorder):
        def handle(self, messages):
            super().handle(messages)
            consumer._on_lost(None, consumer._consumer.assignment())
            consumer._consumer.incremental_unassign(consumer._consumer.assignment())

    consumer = opened(Losing())
    steps_until(consumer, lambda: not waiting(), "recorded")
    consumer.close()
    assert committed_offsets()[0] == 0


# The process.


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
        until(
            lambda: (
                psycopg.connect(committed_db, autocommit=True)
                .execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
                .fetchone()[0]
            ),
            "the batch",
        )
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
    steps_until(after, lambda: len(after._consumer.assignment()) == 4, "the partitions")
    assert time.monotonic() - started < 5.5


def test_sigterm_while_the_database_is_away_ends_in_time_and_a_second_signal_at_once(committed_db, topic, process):
    task_with_versions(1)
    publish(waiting())
    with psycopg.connect(committed_db) as session:
        session.execute("SELECT FROM audit_log FOR UPDATE")
        patient, hasty = process(), None
        until(
            lambda: (
                psycopg.connect(committed_db, autocommit=True)
                .execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
                .fetchone()[0]
            ),
            "the batch",
        )
        started = time.monotonic()
        patient.send_signal(signal.SIGTERM)
        _, err = patient.communicate(timeout=25)
        assert patient.returncode == 0, err
        assert "not committed" in err
        assert 0 < time.monotonic() - started < 25
        hasty = process()
        until(
            lambda: (
                psycopg.connect(committed_db, autocommit=True)
                .execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
                .fetchone()[0]
            ),
            "the batch",
        )
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


# The broker.


def test_a_broker_that_comes_back_empty_on_another_port_is_found(committed_db, wipeable_broker, settings, opened):
    settings.KAFKA_TOPIC, settings.KAFKA_AUDIT_GROUP = "wiped", "wiped"
    kafka.ensure_topic("wiped")
    first = task_with_versions(3)
    publish(waiting())
    consumer = opened()
    steps_until(consumer, lambda: not waiting(), "recorded")
    second = task_with_versions(2)
    wipeable_broker.kill()
    for _ in range(10):
        consumer.step(0.1)
    wipeable_broker.start()
    publish(waiting())
    steps_until(consumer, lambda: not waiting(), "recorded after the broker came back")
    assert (versions(first.pk), versions(second.pk)) == ([1, 2, 3], [1, 2])


def test_closing_while_all_brokers_are_down_takes_no_minute(committed_db, wipeable_broker, settings, opened):
    settings.KAFKA_TOPIC, settings.KAFKA_AUDIT_GROUP = "down", "down"
    kafka.ensure_topic("down")
    task_with_versions(2)
    publish(waiting())
    consumer = opened()
    steps_until(consumer, lambda: not waiting(), "recorded")
    wipeable_broker.kill()
    for _ in range(10):
        consumer.step(0.1)
    started = time.monotonic()
    consumer.close()
    assert time.monotonic() - started < 10


def test_a_topic_that_is_not_there_yet_is_waited_for(committed_db, broker, settings, opened):
    settings.KAFKA_TOPIC = settings.KAFKA_AUDIT_GROUP = f"later-{os.urandom(6).hex()}"
    consumer = opened()
    assert consumer.step(1) == 0
    kafka.ensure_topic(settings.KAFKA_TOPIC, partitions=4)
    task_with_versions(2)
    publish(waiting())
    until(lambda: consumer.step(0.5) is not None and not waiting(), "recorded", 60)
    assert assert_log_is_whole() == 2


def test_a_consumer_that_lost_its_partitions_gets_them_again(committed_db, topic, opened, monkeypatch):
    """Away for longer than its session: the broker gives its partitions to nobody else, its commit is refused, it rejoins."""
    real = kafka.consumer_settings
    monkeypatch.setattr(kafka, "consumer_settings", lambda group: real(group) | {"max.poll.interval.ms": 6_000})
    task_with_versions(2)
    publish(waiting())

    class Away(Recorder):
        away = True

        def handle(self, messages):
            if self.away:
                self.away = False
                time.sleep(8)
            super().handle(messages)

    consumer = opened(Away())
    steps_until(consumer, lambda: not waiting(), "recorded")
    second = task_with_versions(2)
    publish(waiting())
    steps_until(consumer, lambda: not waiting(), "recorded after the loss")
    assert versions(second.pk) == [1, 2]
    until(lambda: consumer.step(0.1) is not None and sum(committed_offsets().values()) == 4, "the commit")
    assert assert_log_is_whole() == 4
