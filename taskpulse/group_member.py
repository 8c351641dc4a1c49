"""A consumer's client and its membership of the group: opened, closed, made anew, and what the broker says meanwhile."""

import logging
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from django.conf import settings

from taskpulse import kafka
from taskpulse.offsets import Offsets
from taskpulse.worker import CannotContinue

logger = logging.getLogger("taskpulse.consumer")

# Seconds to give the partitions back at a stop.
_LEAVE = 3.0
# Seconds for librdkafka to end its client.
_CLOSE = 5.0


class GroupMember:
    """`client` is librdkafka's consumer while this is open; `offsets` what it has handled and not yet committed."""

    def __init__(self, group: str):
        self._group = group
        self._servers = ""
        self.client: Consumer | None = None
        self.offsets = Offsets()
        self.brokers_down = False

    def open(self) -> None:
        self._servers = kafka.bootstrap_servers()
        self.brokers_down = False
        self.client = Consumer(
            kafka.consumer_settings(self._group)
            | kafka.membership_settings()
            | {"bootstrap.servers": self._servers, "error_cb": self._on_error, "on_commit": self._on_commit}
        )
        logger.info("reading the topic %s in the group %s", settings.KAFKA_TOPIC, self._group)
        self.client.subscribe([settings.KAFKA_TOPIC], on_revoke=self._on_revoke, on_lost=self._on_lost)

    def close(self) -> None:
        """Commits what is done and leaves the group, so that another member takes over at once."""
        if self.client is not None:
            if not self.brokers_down:  # a commit would wait a minute for them
                self.commit(asynchronous=False)
                self._leave()
            self._close_client()
            self.client = None

    def _leave(self) -> None:
        """A static member's close() leaves it in the group, whose partitions wait for it (KIP-345); unsubscribe() does not."""
        try:
            self.client.unsubscribe()
            end = time.monotonic() + _LEAVE
            while self.client.assignment() and time.monotonic() < end:
                self.client.poll(0.05)
        except (KafkaException, RuntimeError) as error:  # fenced, for one
            logger.info("the group was not left in order: %s", error)

    def _close_client(self) -> None:
        """librdkafka's close() has no time limit of its own, and a stop has one: what does not end is left to its thread."""
        closing = threading.Thread(target=self.client.close, name="closing the consumer", daemon=True)
        closing.start()
        closing.join(_CLOSE)
        if closing.is_alive():
            logger.warning("the Kafka client did not close within %.0f s: going on without", _CLOSE)

    def reopen(self, reason: str) -> None:
        """With a new client, which begins where the group's commits say."""
        logger.info("%s", reason)
        self.offsets.forget()
        self._close_client()
        self.open()

    def has_moved(self) -> bool:
        """The embedded broker comes back on other ports; a broker on the same address is found again by librdkafka."""
        try:
            return kafka.bootstrap_servers() != self._servers
        except Exception as error:
            logger.debug("no broker is known: %s", error)
            return False

    def commit(self, asynchronous: bool) -> None:
        self.offsets.commit(self.client, asynchronous)

    def handled(self, messages: list[Message]) -> None:
        self.offsets.handled(self.client, messages)

    def pause(self) -> None:
        self.client.pause(self.client.assignment())

    def resume(self) -> None:
        self.client.resume(self.client.assignment())

    @staticmethod
    def is_event(message: Message) -> bool:
        """Whether it is one and not a word of the client's. Raises CannotContinue for its last word."""
        error = message.error()
        if error is None:
            return True
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise CannotContinue(_explained(error))
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            logger.info("waiting for the topic %s, which the relay makes", settings.KAFKA_TOPIC)
        elif error.code() != KafkaError._PARTITION_EOF:
            logger.warning("consumer: %s", error)
        return False

    def _on_revoke(self, client, partitions) -> None:
        if not self.brokers_down:
            self.offsets.commit(client, asynchronous=False, only={(p.topic, p.partition) for p in partitions})
        self._on_lost(client, partitions)

    def _on_lost(self, client, partitions) -> None:
        self.offsets.lost(partitions)

    def _on_commit(self, error, partitions) -> None:
        if self.offsets.answered(error, partitions):
            self.brokers_down = False

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            if not self.brokers_down:
                logger.warning("all brokers are down, waiting for one")
            self.brokers_down = True


def _explained(error: KafkaError) -> str:
    """The broker's reason for a fatal error stands in its text alone."""
    if kafka.FENCED in error.str():
        return (
            f"another consumer has joined as {settings.KAFKA_GROUP_INSTANCE_ID!r} and taken this one's partitions: "
            "KAFKA_GROUP_INSTANCE_ID must be another for each process; nothing is lost"
        )
    return f"the Kafka client gave up: {error.str()}"
