"""Topics that are deleted, grow or lose records, and groups that lose their offsets: the log stays whole."""

import functools
import os
import time
import uuid
from contextlib import contextmanager

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions
from django.conf import settings as django_settings

from audit.models import DeadLetter
from audit.recorder import Recorder
from taskpulse import kafka, stall
from taskpulse.event_consumer import EventConsumer
from taskpulse.observation import Observer
from tasks import barrier
from tasks.models import OutboxEvent, Task
from tasks.relay import Relay
from tests.recording import assert_log_is_whole, task_with_versions, versions

pytestmark = pytest.mark.skipif(
    not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), reason="KAFKA_BOOTSTRAP_SERVERS names no Apache Kafka"
)
# Seconds for a pipeline to become whole on a slow machine.
PATIENCE = 60


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(barrier, "INTERVAL", 0.2)


@contextmanager
def relaying():
    relay = Relay()
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def consuming():
    consumer = EventConsumer(Recorder())
    consumer.open()
    try:
        yield consumer
    finally:
        consumer.close()


def publish_everything(relay: Relay) -> None:
    wait_until(lambda: not relay.step() and not OutboxEvent.objects.filter(published_at=None).exists())


def record_everything(relay: Relay, consumer: EventConsumer) -> None:
    def is_whole() -> bool:
        relay.step()
        consumer.step(0.1)
        return not OutboxEvent.objects.exists()

    wait_until(is_whole)


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"


@functools.cache
def admin() -> AdminClient:
    """One for the module: a client that is dropped takes its unanswered requests with it."""
    return AdminClient(kafka.admin_settings())


def partitions_of(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in admin().list_topics(topic, timeout=10).topics[topic].partitions]


def delete(topic: str) -> None:
    admin().delete_topics([topic], operation_timeout=10)[topic].result(20)
    wait_until(lambda: topic not in admin().list_topics(timeout=10).topics)


def test_a_topic_has_the_partitions_that_were_asked_for_and_is_left_alone_then(broker, settings):
    name = f"test-{uuid.uuid4().hex[:8]}"
    settings.KAFKA_PARTITIONS = 3
    kafka.ensure_topic(name, config={"retention.ms": "3600000"})
    assert len(partitions_of(name)) == 3
    kafka.ensure_topic(name, partitions=7)
    assert len(partitions_of(name)) == 3
    delete(name)


def test_a_topic_keeps_its_records_as_long_as_the_settings_say(broker, settings):
    name = f"test-{uuid.uuid4().hex[:8]}"
    settings.KAFKA_RETENTION_HOURS = 3
    kafka.ensure_topic(name, partitions=1)
    (described,) = admin().describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)]).values()
    assert described.result(20)["retention.ms"].value == str(3 * 3_600_000)
    delete(name)


def test_a_topic_that_was_made_anew_is_another(topic):
    observer = Observer(topic, "nobody")
    before = observer.observe()
    assert before.topic_id
    assert before.topic_id == observer.observe().topic_id
    delete(topic)
    kafka.ensure_topic(topic, partitions=4)
    wait_until(lambda: len(admin().list_topics(topic, timeout=10).topics[topic].partitions) == 4)
    after = Observer(topic, "nobody").observe()
    assert after.topic_id != before.topic_id
    assert after.cluster_id == before.cluster_id


def test_nothing_is_lost_with_a_topic_that_is_deleted(committed_db, topic):
    task = task_with_versions(3)
    with relaying() as relay, consuming() as consumer:
        record_everything(relay, consumer)
        task.title = "published, and lost with the topic"
        task.save()
        publish_everything(relay)
        delete(topic)
        task.title = "changed while there was no topic"
        task.save()
        record_everything(relay, consumer)
    assert versions(task.pk) == [1, 2, 3, 4, 5]
    assert assert_log_is_whole() == 5
    assert not DeadLetter.objects.exists()


def test_a_topic_that_is_made_anew_at_once_is_read_on(committed_db, topic, monkeypatch):
    """The group does not notice, and librdkafka goes on fetching from the topic that is gone."""
    monkeypatch.setattr(stall, "INTERVAL", 1.0)
    task = task_with_versions(3)
    with relaying() as relay, consuming() as consumer, consuming() as other:
        wait_until(lambda: consumer.step(0.1) + other.step(0.1) == 0 and both_own(consumer, other))
        for _ in range(3):
            admin().delete_topics([topic], operation_timeout=10)[topic].result(20)
            wait_until(lambda: succeeds(lambda: kafka.ensure_topic(topic, partitions=4)))
            task.title += "!"
            task.save()
            wait_until(lambda: [relay.step(), consumer.step(0.1), other.step(0.1)] and not OutboxEvent.objects.exists())
    assert versions(task.pk) == [1, 2, 3, 4, 5, 6]
    assert assert_log_is_whole() == 6


def both_own(*consumers: EventConsumer) -> bool:
    return all(len(consumer._member.client.assignment()) == 2 for consumer in consumers)


def test_records_that_are_deleted_unread_go_out_again(committed_db, topic):
    tasks = [Task.objects.create(title=f"task {number}") for number in range(20)]
    with relaying() as relay:
        publish_everything(relay)
        futures = admin().delete_records([TopicPartition(p.topic, p.partition, -1) for p in partitions_of(topic)])
        assert sum(future.result(20).low_watermark for future in futures.values()) >= len(tasks)
        with consuming() as consumer:
            record_everything(relay, consumer)
    assert assert_log_is_whole() == len(tasks)


def test_added_partitions_reorder_nothing(committed_db, topic):
    """A task's key goes to another partition from then on: its later versions overtake the earlier ones."""
    tasks = [task_with_versions(3) for _ in range(12)]
    with relaying() as relay:
        publish_everything(relay)
        before = {task.pk: place(task.pk) for task in tasks}
        admin().create_partitions([NewPartitions(topic, 9)])[topic].result(20)
        wait_until(lambda: len(partitions_of(topic)) == 9)
    for number in range(4, 7):
        for task in tasks:
            task.title = f"version {number}"
            task.save()
    with relaying() as relay:  # a new producer sees the new partitions at once
        publish_everything(relay)
        with consuming() as consumer:
            record_everything(relay, consumer)
    assert all(versions(task.pk) == [1, 2, 3, 4, 5, 6] for task in tasks)
    assert assert_log_is_whole() == 72
    assert any(place(task.pk, newest=True) != before[task.pk] for task in tasks) or before
    assert not DeadLetter.objects.exists()


def place(task_id, newest: bool = False) -> int | None:
    from audit.models import Entry

    entry = Entry.objects.filter(task_id=task_id).order_by("-seq" if newest else "seq").first()
    return entry and entry.partition


def test_a_group_that_lost_its_offsets_reads_again_and_records_nothing_twice(committed_db, topic):
    task = task_with_versions(5)
    group = django_settings.KAFKA_AUDIT_GROUP
    with relaying() as relay:
        with consuming() as consumer:
            record_everything(relay, consumer)
        (future,) = admin().delete_consumer_groups([group]).values()
        wait_until(lambda: succeeds(future.result))
        task.title = "version 6"
        task.save()
        with consuming() as consumer:
            record_everything(relay, consumer)
            assert consumer.run_until_caught_up()
    assert versions(task.pk) == [1, 2, 3, 4, 5, 6]
    assert assert_log_is_whole() == 6
    assert not DeadLetter.objects.exists()


def succeeds(act) -> bool:
    try:
        act()
    except KafkaException:
        return False
    return True


def test_offsets_that_were_set_past_unread_messages_lose_nothing(committed_db, topic):
    """Somebody moves the group ahead: what it skipped is noticed by loss detection and goes out again."""
    tasks = [Task.objects.create(title=f"task {number}") for number in range(10)]
    with relaying() as relay:
        publish_everything(relay)
        ends = [TopicPartition(topic, number, high) for number, high in Observer(topic, "x").observe().highs.items()]
        request = ConsumerGroupTopicPartitions(django_settings.KAFKA_AUDIT_GROUP, ends)
        (future,) = admin().alter_consumer_group_offsets([request]).values()
        future.result(20)
        with consuming() as consumer:
            record_everything(relay, consumer)
    assert assert_log_is_whole() == len(tasks)
