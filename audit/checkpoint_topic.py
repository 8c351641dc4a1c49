"""Checkpoints on Kafka: kept for ever, out of reach of whoever owns the database.

What stands there and bears a signature of ours is what the log must remain consistent with, whatever the database says.
The embedded broker forgets it with all else: then there is nothing to compare with.
"""

import time
from collections.abc import Iterable, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from django.conf import settings

from audit.checkpoint import Checkpoint
from audit.key_ring import KeyRing
from audit.signed_note import MalformedNote, Unverified, VerifierKey
from taskpulse import kafka

# One partition, so that the order is the order of signing.
PARTITION = 0
FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
CONTENT_TYPE = "text/plain; charset=UTF-8"
# Read at once, from the end backwards.
_WINDOW = 1_000
# Seconds.
_PATIENCE = 10.0
# The checkpointer waits for it, so that a broker that is away may not hold it for long.
_DELIVERY_PATIENCE = 3.0


class CheckpointTopic:
    """`newest`, `above` and `publish` raise KafkaException or OSError where the broker does not answer."""

    def __init__(self):
        self._name = settings.KAFKA_CHECKPOINT_TOPIC
        self._producer: Producer | None = None

    def close(self) -> None:
        self._producer = None

    def newest(self, origin: str, keys: Iterable[VerifierKey] | KeyRing) -> Checkpoint | None:
        """The greatest checkpoint of this origin that one of `keys` signed; None if the topic holds none.

        Anything else on the topic is passed over: whoever may produce to it must not be able to stop the log.
        """
        ring = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        kafka.ensure_topic(self._name, partitions=1, config=FOR_EVER)
        consumer = Consumer(kafka.consumer_settings("taskpulse-checkpoints") | {"log_level": 2})
        try:
            low, end = consumer.get_watermark_offsets(TopicPartition(self._name, PARTITION), timeout=_PATIENCE)
            while end > low:
                start = max(low, end - _WINDOW)
                found = [ours for value in self._read(consumer, start, end) if (ours := _ours(value, origin, ring))]
                if found:
                    return max(found, key=lambda checkpoint: checkpoint.size)
                end = start
            return None
        finally:
            consumer.close()

    def above(self, origin: str, keys: Iterable[VerifierKey] | KeyRing, size: int) -> list[tuple[Checkpoint, bytes]]:
        """Those of this origin beyond `size`, with their notes, the smallest first: what a database that was set back lacks."""
        ring = keys if isinstance(keys, KeyRing) else KeyRing(keys)
        consumer = Consumer(kafka.consumer_settings("taskpulse-checkpoints") | {"log_level": 2})
        try:
            low, end = consumer.get_watermark_offsets(TopicPartition(self._name, PARTITION), timeout=_PATIENCE)
            values: list[bytes] = []
            while end > low:
                start = max(low, end - _WINDOW)
                part = self._read(consumer, start, end)
                values, end = part + values, start
                if any((ours := _ours(value, origin, ring)) and ours.size <= size for value in part):
                    break
        finally:
            consumer.close()
        found = {ours.size: (ours, value) for value in values if (ours := _ours(value, origin, ring)) and ours.size > size}
        return [found[at] for at in sorted(found)]

    def all(self, keys: Iterable[VerifierKey]) -> Iterator[tuple[Checkpoint, str]]:
        """Every checkpoint that is there at this moment and that one of `keys`, or a key to which they hand over, signed:
        the oldest first, with where it stands. None by a key alone that had handed over on the topic itself; what the
        database says of that must not count here. It makes no topic, and holds few at a time."""
        consumer = Consumer(kafka.consumer_settings("taskpulse-checkpoints") | {"log_level": 2, "allow.auto.create.topics": False})
        try:
            error = consumer.list_topics(self._name, timeout=_PATIENCE).topics[self._name].error
            if error is not None and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaException(error)
            low = end = 0
            if error is None:
                low, end = consumer.get_watermark_offsets(TopicPartition(self._name, PARTITION), timeout=_PATIENCE)
        except BaseException:
            consumer.close()
            raise
        return self._signed(consumer, low, end, KeyRing(keys))

    def _signed(self, consumer: Consumer, low: int, end: int, ring: KeyRing) -> Iterator[tuple[Checkpoint, str]]:
        try:
            for start in range(low, end, _WINDOW):
                for value in self._read(consumer, start, min(start + _WINDOW, end)):
                    found = _ours(value, None, ring)
                    if found is not None:
                        yield found, f"on the topic {self._name}"
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, start: int, end: int) -> list[bytes]:
        consumer.assign([TopicPartition(self._name, PARTITION, start)])
        values, deadline, at = [], time.monotonic() + _PATIENCE, start
        while at < end:
            if time.monotonic() > deadline:
                raise TimeoutError(f"topic {self._name}: only {at - start} of {end - start} checkpoints came in {_PATIENCE:.0f} s")
            for message in consumer.consume(end - at, timeout=0.1):
                if message.error() is not None:
                    raise KafkaException(message.error())
                at = message.offset() + 1
                values.append(message.value() or b"")
        return values

    def publish(self, origin: str, notes: Iterable[bytes]) -> None:
        """Returns when the broker has them all. What it raises for may have arrived all the same; repeats do no harm."""
        failed = []
        try:
            if self._producer is None:
                kafka.ensure_topic(self._name, partitions=1, config=FOR_EVER)
                self._producer = Producer(kafka.producer_settings() | {"log_level": 2})
            for note in notes:
                self._producer.produce(
                    self._name, note, origin.encode(), PARTITION, headers=[("content-type", CONTENT_TYPE)],
                    on_delivery=lambda error, _: failed.append(error) if error is not None else None,
                )  # fmt: skip
            if self._producer.flush(_DELIVERY_PATIENCE):
                raise TimeoutError(f"topic {self._name}: no delivery report in {_DELIVERY_PATIENCE:.0f} s")
            if failed:
                raise KafkaException(failed[0])
        except BaseException:
            # The embedded broker comes back on other ports: another producer next time.
            if self._producer is not None:
                self._producer.purge()
            self._producer = None
            raise


def _ours(value: bytes, origin: str | None, ring: KeyRing) -> Checkpoint | None:
    try:
        checkpoint = ring.open(value)
    except (MalformedNote, Unverified):
        return None
    return checkpoint if origin in (None, checkpoint.origin) else None
