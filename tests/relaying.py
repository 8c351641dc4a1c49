"""What the tests of the relay share: outbox rows made by hand, and what arrived of them."""

import json
import time
import uuid

import pytest
from confluent_kafka import Consumer, TopicPartition
from django.db import connection

from taskpulse import kafka
from tasks.models import OutboxEvent
from tasks.relay import Relay


def add(*rows, size: int = 0, task_id=None) -> list[int]:
    """Inserts outbox rows in this order, each `(subject, version)`; returns their ids."""
    ids = []
    with connection.cursor() as cursor:
        for subject, version in rows:
            event_id = uuid.uuid4()
            payload = json.dumps({"id": str(event_id), "v": [subject, version], "x": "x" * size}).encode()
            cursor.execute(
                "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload) "
                "VALUES (%s, 'task', %s, %s, %s, %s) RETURNING id",
                [event_id, subject, version, task_id, payload],
            )
            ids.append(cursor.fetchone()[0])
    return ids


def drain(one: Relay, steps: int = 50) -> int:
    """Steps until nothing is left to do; returns how many steps found work."""
    for count in range(steps):
        if not one.step():
            return count
    pytest.fail(f"still busy after {steps} steps")


def until(condition, seconds: float = 10.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def on_topic(topic: str) -> list:
    """All messages of the topic; within a partition in order."""
    consumer = Consumer(kafka.consumer_settings(f"reader-{uuid.uuid4()}"))
    wanted = []
    for number in consumer.list_topics(topic, 10).topics[topic].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
        wanted += [TopicPartition(topic, number, low)] * (high > low)
    count = sum(consumer.get_watermark_offsets(p, 10)[1] - p.offset for p in wanted)
    messages, end = [], time.monotonic() + 20
    if wanted:
        consumer.assign(wanted)
    while len(messages) < count and time.monotonic() < end:
        messages += [message for message in consumer.consume(count, 0.2) if message.error() is None]
    consumer.close()
    return messages


def versions(topic: str) -> dict[str, list]:
    """What arrived, by subject, in the order of arrival."""
    arrived: dict[str, list] = {}
    for message in on_topic(topic):
        subject, version = json.loads(message.value())["v"]
        arrived.setdefault(subject, []).append(version)
    return arrived


def unpublished() -> list[tuple]:
    rows = OutboxEvent.objects.filter(published_at=None, held_at=None)
    return list(rows.order_by("subject_id", "version").values_list("subject_id", "version"))


def hold(row_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_outbox SET held_at = now(), held_reason = 'test' WHERE id = %s", [row_id])
