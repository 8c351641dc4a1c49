"""What the tests of the consumer share: messages as the relay sends them, consumers, and what the group has committed."""

import time

from confluent_kafka import Consumer, Producer, TopicPartition
from django.conf import settings as django_settings

from audit.recorder import Recorder
from taskpulse import kafka
from taskpulse.event_consumer import EventConsumer

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


def steps_until(consumer: EventConsumer, condition, what: str):
    until(lambda: consumer.step(0.1) is not None and condition(), what)
