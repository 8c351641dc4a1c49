"""The consumer in its group: rebalances, lost partitions, a broker that comes back, static membership."""

import os
import threading
import time

from django.db import connections

from audit.recorder import Recorder
from taskpulse import kafka
from taskpulse.event_consumer import EventConsumer
from taskpulse.worker import Stop
from tests.consuming import WAIT, committed_offsets, publish, steps_until, until
from tests.recording import assert_log_is_whole, task_with_versions, versions, waiting

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
    steps_until(first, lambda: len(first._member.client.assignment()) == 2, "the sharing")
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
            consumer._member._on_lost(None, consumer._member.client.assignment())
            consumer._member.client.incremental_unassign(consumer._member.client.assignment())

    consumer = opened(Losing())
    steps_until(consumer, lambda: not waiting(), "recorded")
    consumer.close()
    assert committed_offsets()[0] == 0


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
    assert consumer.partitions == {0, 1, 2, 3}, "what its readiness answers for"
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
