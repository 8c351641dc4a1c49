"""The loop that reads the topic and hands batches to a handler; the loop is one, handlers differ.

Delivery is at least once: offsets are committed after the handler's database transaction, so a crash between the two
repeats messages and never loses one. The handler absorbs repeats. A rebalance in the middle of a batch is normal: the
batch is finished, what was taken from this consumer is not committed, and its next owner sees the messages again.
"""

import logging
import time
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from django.conf import settings
from django.db import connection

from taskpulse import kafka
from taskpulse.stall import StallWatch
from taskpulse.worker import Backoff, Stop

logger = logging.getLogger("taskpulse.consumer")

# A batch takes no more messages once their values hold this many bytes: 2,000 events of 900 KB would be 1.8 GB.
BATCH_BYTES = 8_000_000
# Messages are drained this many at a time, so that a batch exceeds BATCH_BYTES by at most so many messages.
_DRAIN = 16
# Seconds for a question to the broker (offsets, topic), and for the last commit of a stop.
_ANSWER = 10


class Handler(Protocol):
    """What `consume_events` runs. `handle` commits its own transaction, or raises and leaves nothing behind."""

    group: str

    def handle(self, messages: list[Message]) -> None: ...

    def is_transient(self, error: Exception) -> bool:
        """True for a fault of database or network, after which the same batch is tried again."""


class EventConsumer:
    def __init__(self, handler: Handler, stop: Stop | None = None, batch_size: int | None = None):
        self._handler = handler
        self._stop = stop or Stop()
        self._batch_size = batch_size or settings.CONSUMER_BATCH
        # By topic and partition, as far as this consumer owns it: the offset up to which messages are handled, and those
        # of them that are still to be committed.
        self._handled: dict[tuple[str, int], int] = {}
        self._uncommitted: set[tuple[str, int]] = set()
        # Read and not handled.
        self._pending: list[Message] = []
        self._brokers_down = False
        self._commit_failing = False
        self._servers = ""
        self._consumer: Consumer | None = None
        self._retry = Backoff(0.1, 5.0)
        self._stall = StallWatch()

    def open(self) -> None:
        self._servers = kafka.bootstrap_servers()
        self._brokers_down = False
        self._consumer = Consumer(
            kafka.consumer_settings(self._handler.group)
            | {"bootstrap.servers": self._servers, "error_cb": self._on_error, "on_commit": self._on_commit}
        )
        logger.info("reading the topic %s in the group %s", settings.KAFKA_TOPIC, self._handler.group)
        self._consumer.subscribe([settings.KAFKA_TOPIC], on_revoke=self._on_revoke, on_lost=self._on_lost)

    def close(self) -> None:
        """Commits what is done and leaves the group, so that another member takes over at once."""
        if self._consumer is not None:
            if not self._brokers_down:  # a commit would wait a minute for them
                self._commit(asynchronous=False)
            self._consumer.close()
            self._consumer = None

    def run(self) -> None:
        """Handles batches until a stop is requested."""
        while not self._stop.requested:
            self.step()

    def run_once(self, wait: float) -> int:
        """Handles one batch, waiting up to `wait` seconds for its first message; returns the number of messages."""
        end = time.monotonic() + wait
        while not self._stop.requested:
            count = self.step(max(0.0, min(0.5, end - time.monotonic())))
            if count or time.monotonic() >= end:
                return count
        return 0

    def run_until_caught_up(self) -> bool:
        """Handles what the topic holds at the start; False when a stop came first."""
        marks = None
        while not self._stop.requested:
            count = self.step()
            try:
                if marks is None:
                    marks = self.high_watermarks()
                elif count == 0 and self.is_caught_up(marks):
                    return True
            except KafkaException as error:
                logger.info("the broker does not say where the topic ends, asking again: %s", error)
        return False

    def step(self, timeout: float = 0.5) -> int:
        """Waits up to `timeout` seconds for a message, drains what is there, handles it as one batch.

        Returns the number of messages handled. Transient faults are retried in place; what the handler cannot
        explain is raised, and nothing of the batch is committed.
        """
        if self._brokers_down:
            self._reopen_if_moved()
        messages = self._receive(timeout)
        if not messages:
            if self._stall.is_stalled(self._consumer):
                self._reopen("the topic is not where this client is in it: made anew, perhaps; opening a new client")
        else:
            self._stall.received()
            self._handle(messages)
            # What a rebalance took meanwhile belongs to its next owner, who may be further on.
            owned = {(p.topic, p.partition) for p in self._consumer.assignment()}
            for message in messages:
                if (key := (message.topic(), message.partition())) in owned:
                    self._handled[key] = message.offset() + 1
                    self._uncommitted.add(key)
        self._commit(asynchronous=True)
        return len(messages)

    def _receive(self, timeout: float) -> list[Message]:
        # consume(n, timeout) would wait the whole timeout for a full batch: wait for one, then take what is there.
        received, self._pending = self._pending, []
        if not received:
            first = self._consumer.poll(timeout)
            if first is None:
                return []
            received.append(first)
        size = sum(map(len, received))
        while (room := self._batch_size - len(received)) > 0 and size < BATCH_BYTES:
            more = self._consumer.consume(min(room, _DRAIN), 0)
            if not more:
                break
            received += more
            size += sum(map(len, more))
        return [message for message in received if self._is_event(message)]

    def _is_event(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            raise KafkaException(error)
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            logger.info("waiting for the topic %s, which the relay makes", settings.KAFKA_TOPIC)
        elif error.code() != KafkaError._PARTITION_EOF:
            logger.warning("consumer: %s", error)
        return False

    def _handle(self, messages: list[Message]) -> None:
        while True:
            try:
                self._handler.handle(messages)
            except Exception as error:
                if not self._handler.is_transient(error):
                    raise
                if self._retry.failures == 0:
                    logger.warning("handling a batch of %d failed, trying again: %s", len(messages), error)
                self._wait_in_group(self._retry.next())
                if self._stop.requested:
                    raise Interrupted from error
            else:
                if self._retry.failures:
                    logger.info("handling succeeded after %d failures", self._retry.failures)
                self._retry.reset()
                return

    def _wait_in_group(self, seconds: float) -> None:
        """Waits without leaving the group: paused partitions deliver nothing, `poll` keeps the membership alive."""
        connection.close()
        self._consumer.pause(self._consumer.assignment())
        end = time.monotonic() + seconds
        while not self._stop.requested and (rest := end - time.monotonic()) > 0:
            message = self._consumer.poll(min(rest, 0.5))
            if message is not None:  # of a partition that was assigned meanwhile
                self._pending.append(message)
                self._consumer.pause(self._consumer.assignment())
        self._consumer.resume(self._consumer.assignment())

    def _commit(self, asynchronous: bool, only=None) -> None:
        keys = self._uncommitted if only is None else self._uncommitted & only
        offsets = [TopicPartition(*key, self._handled[key]) for key in keys]
        self._uncommitted = self._uncommitted - keys
        if offsets:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=asynchronous)
            except KafkaException as error:
                self._on_commit(error.args[0], offsets)

    def _on_revoke(self, consumer, partitions) -> None:
        self._commit(asynchronous=False, only={(p.topic, p.partition) for p in partitions})
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer, partitions) -> None:
        for partition in partitions:
            self._handled.pop((partition.topic, partition.partition), None)
        self._uncommitted &= self._handled.keys()

    def _on_commit(self, error, partitions) -> None:
        """A refused commit is tried again with the next step, as far as the partition is still owned: the relay takes
        committed offsets for the sign that nothing was lost on the way, so the last one must not stay undone."""
        failed = [p for p in partitions if error is not None or p.error is not None]
        if not failed:
            self._commit_failing = self._brokers_down = False
            return
        if not self._commit_failing:
            logger.info("offsets not committed, trying again: %s", error or failed[0].error)
        self._commit_failing = True
        self._uncommitted |= {(p.topic, p.partition) for p in failed} & self._handled.keys()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            if not self._brokers_down:
                logger.warning("all brokers are down, waiting for one")
            self._brokers_down = True

    def _reopen_if_moved(self) -> None:
        """The embedded broker comes back on other ports; a broker on the same address is found again by librdkafka."""
        try:
            moved = kafka.bootstrap_servers() != self._servers
        except Exception as error:
            logger.debug("no broker is known: %s", error)
            return
        if moved:
            self._reopen("following the broker to its new address")

    def _reopen(self, reason: str) -> None:
        logger.info("%s", reason)
        # Offsets of a log that is gone mean nothing to the next one.
        self._handled.clear()
        self._uncommitted.clear()
        self._pending.clear()
        self._consumer.close()
        self.open()

    def is_caught_up(self, marks: dict[int, int]) -> bool:
        """Whether the group has committed up to `marks` (partition: offset) on every partition."""
        topic = settings.KAFKA_TOPIC
        committed = self._consumer.committed([TopicPartition(topic, number) for number in marks], _ANSWER)
        return all(
            p.offset >= marks[p.partition] or self._consumer.get_watermark_offsets(p, _ANSWER)[0] >= marks[p.partition]
            for p in committed
        )

    def high_watermarks(self) -> dict[int, int]:
        """Partition: offset of the next message; empty while there is no such topic."""
        topic = self._consumer.list_topics(settings.KAFKA_TOPIC, _ANSWER).topics[settings.KAFKA_TOPIC]
        partitions = [TopicPartition(settings.KAFKA_TOPIC, number) for number in topic.partitions]
        return {p.partition: self._consumer.get_watermark_offsets(p, _ANSWER)[1] for p in partitions}


class Interrupted(Exception):
    """A stop was requested while a batch was being retried; nothing of it is committed."""
