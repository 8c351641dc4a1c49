"""The loop that reads the topic and hands batches to a handler; the loop is one, handlers differ.

Delivery is at least once: offsets are committed after the handler's database transaction, so a crash between the two
repeats messages and never loses one. The handler absorbs repeats. A rebalance in the middle of a batch is normal: the
batch is finished, what was taken from this consumer is not committed, and its next owner sees the messages again.
"""

import logging
import time
from typing import Protocol

from confluent_kafka import KafkaException, Message
from django.conf import settings
from django.db import connection

from taskpulse.catch_up import high_watermarks, is_caught_up
from taskpulse.group_member import GroupMember
from taskpulse.metrics import BATCH_EVENTS, BATCH_SECONDS
from taskpulse.stall import StallWatch
from taskpulse.worker import Backoff, Stop

logger = logging.getLogger("taskpulse.consumer")

# A batch takes no more messages once their values hold this many bytes: 2,000 events of 900 KB would be 1.8 GB.
BATCH_BYTES = 8_000_000
# Messages are drained this many at a time, so that a batch exceeds BATCH_BYTES by at most so many messages.
_DRAIN = 16
# Seconds without a sign of the client, which answers within fractions of one; longer than it may wait for a broker's answer
# to a commit, since a broker that is away is no reason for a new process.
FROZEN = 300.0


class Handler(Protocol):
    """What `consume_events` runs. `handle` commits its own transaction, or raises and leaves nothing behind."""

    group: str

    def handle(self, messages: list[Message]) -> None: ...

    def is_transient(self, error: Exception) -> bool:
        """True for a fault of database or network, after which the same batch is tried again."""


class EventConsumer:
    role = "consumer"

    def __init__(self, handler: Handler, stop: Stop | None = None, batch_size: int | None = None):
        self._handler = handler
        self._stop = stop or Stop()
        self._batch_size = batch_size or settings.CONSUMER_BATCH
        self._member = GroupMember(handler.group)
        # Read and not handled.
        self._pending: list[Message] = []
        self._handling = False
        self._retry = Backoff(0.1, 5.0)
        self._stall = StallWatch()
        # When the loop last went round, by the monotonic clock, and the partitions that were this consumer's then.
        self.beat = time.monotonic()
        self.partitions: frozenset[int] = frozenset()
        # What a batch that is tried again fails with, and since when.
        self._failure: tuple[Exception, float] | None = None

    def open(self) -> None:
        self._member.open()

    def close(self) -> None:
        """Commits what is done and leaves the group, so that another member takes over at once."""
        self._member.close()

    def troubles(self) -> dict[str, str]:
        """What keeps the consumer from its work. For another thread."""
        failure = self._failure
        if failure is None:
            return {}
        error, since = failure
        return {"consumer": f"a batch fails, and is tried again, for {time.monotonic() - since:.0f} s ({type(error).__name__})"}

    def notes(self) -> dict[str, str]:
        return {}

    def stuck(self) -> str | None:
        """What a new process may mend; no dependency's fault: a batch at work waits for PostgreSQL, however long."""
        if self._stall.helpless >= 2:
            return "there are messages and none is received, though the client was made anew"
        silence = time.monotonic() - self.beat
        if silence > FROZEN and not self._handling:
            return f"the Kafka client has not come back for {silence:.0f} s"
        return None

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
                    marks = high_watermarks(self._member.client)
                elif count == 0 and is_caught_up(self._member.client, marks):
                    return True
            except KafkaException as error:
                logger.info("the broker does not say where the topic ends, asking again: %s", error)
        return False

    def step(self, timeout: float = 0.5) -> int:
        """Waits up to `timeout` seconds for a message, drains what is there, handles it as one batch.

        Returns the number of messages handled. Transient faults are retried in place; what the handler cannot
        explain is raised, and nothing of the batch is committed.
        """
        self.beat = time.monotonic()
        if self._member.brokers_down and self._member.has_moved():
            self._reopen("following the broker to its new address")
        messages = self._receive(timeout)
        if not messages:
            if self._stall.is_stalled(self._member.client):
                self._reopen("the topic is not where this client is in it: made anew, perhaps; opening a new client")
        else:
            self._stall.received()
            start = time.monotonic()
            self._handling = True
            self._handle(messages)
            self._handling = False
            BATCH_EVENTS.labels(self.role).observe(len(messages))
            BATCH_SECONDS.labels(self.role).observe(time.monotonic() - start)
            self._member.handled(messages)
        self._member.commit(asynchronous=True)
        self.partitions = frozenset(partition.partition for partition in self._member.client.assignment())
        return len(messages)

    def _receive(self, timeout: float) -> list[Message]:
        # consume(n, timeout) would wait the whole timeout for a full batch: wait for one, then take what is there.
        received, self._pending = self._pending, []
        if not received:
            first = self._member.client.poll(timeout)
            if first is None:
                return []
            received.append(first)
        size = sum(map(len, received))
        while (room := self._batch_size - len(received)) > 0 and size < BATCH_BYTES:
            more = self._member.client.consume(min(room, _DRAIN), 0)
            if not more:
                break
            received += more
            size += sum(map(len, more))
        return [message for message in received if self._member.is_event(message)]

    def _handle(self, messages: list[Message]) -> None:
        while True:
            try:
                self._handler.handle(messages)
            except Exception as error:
                if not self._handler.is_transient(error):
                    raise
                if self._retry.failures == 0:
                    self._failure = (error, time.monotonic())
                    logger.warning("handling a batch of %d failed, trying again: %s", len(messages), error)
                self._wait_in_group(self._retry.next())
                if self._stop.requested:
                    raise Interrupted from error
            else:
                if self._retry.failures:
                    logger.info("handling succeeded after %d failures", self._retry.failures)
                self._retry.reset()
                self._failure = None
                return

    def _wait_in_group(self, seconds: float) -> None:
        """Waits without leaving the group: paused partitions deliver nothing, `poll` keeps the membership alive."""
        connection.close()
        self._member.pause()
        end = time.monotonic() + seconds
        while not self._stop.requested and (rest := end - time.monotonic()) > 0:
            self.beat = time.monotonic()
            message = self._member.client.poll(min(rest, 0.5))
            if message is not None:  # of a partition that was assigned meanwhile
                self._pending.append(message)
                self._member.pause()
        self._member.resume()

    def _reopen(self, reason: str) -> None:
        self._pending.clear()
        self._member.reopen(reason)


class Interrupted(Exception):
    """A stop was requested while a batch was being retried; nothing of it is committed."""
