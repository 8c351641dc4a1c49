"""Promise 3, the loop's side: offsets after the transaction, transient faults tried again in place."""

import logging
import threading

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from django.conf import settings as django_settings
from django.db import OperationalError, connection

from audit import merkle
from audit.recorder import Recorder
from taskpulse import event_consumer, kafka
from taskpulse.event_consumer import Interrupted
from taskpulse.worker import Stop
from tests.consuming import WAIT, committed_offsets, publish, steps_until, until
from tests.recording import assert_log_is_whole, task_with_versions, waiting

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
    real, refused = consumer._member.client, []

    class Refusing:
        """librdkafka's consumer, but the first commit fails as it does while a coordinator is loading."""

        def __getattr__(self, name):
            return getattr(real, name)

        def commit(self, **arguments):
            if not refused:
                refused.append(arguments)
                raise KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
            return real.commit(**arguments)

    consumer._member.client = Refusing()
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
