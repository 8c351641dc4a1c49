"""Settings of the Kafka clients: one place.

Without KAFKA_BOOTSTRAP_SERVERS the broker of `manage.py up` serves. It comes back on other ports, so that whoever makes
a client asks here anew each time.
"""

import json
import logging
import time

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from django.conf import settings


class Repeats(logging.Filter):
    """Passes a message again only after `SILENCE` seconds: librdkafka tries a broker that is down some 40 times a second,
    and says each time that the connection was refused."""

    SILENCE = 30.0

    def __init__(self):
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # "FAIL [client] [thread]: host:port/id: Connect to … failed: … (after 0ms in state CONNECT)"; a client made anew
        # has another name.
        message, now = record.getMessage(), time.monotonic()
        text = (message.partition("]: ")[2] or message).partition(" (after ")[0]
        if now - self._said.get(text, -self.SILENCE) < self.SILENCE:
            return False
        if len(self._said) >= 100:
            self._said.clear()
        self._said[text] = now
        return True


# librdkafka's own messages: passed on when the client is polled.
logger = logging.getLogger("taskpulse.kafka")
logger.addFilter(Repeats())

BROKER_FILE = "broker.json"
# Seconds.
REQUEST_TIMEOUT = 10.0
# A record's limit in bytes, headers included; Kafka's default for a topic is a little more (max.message.bytes, 1,048,588).
MAX_MESSAGE_BYTES = 1_000_000


class NoBroker(ConnectionError):
    """It is not known where a broker listens; there may be one in a moment."""


def uses_embedded_broker() -> bool:
    """Whether the settings name no broker, so that the one inside librdkafka serves.

    That one makes topics on first use, with 4 partitions, and never by request.
    """
    return not settings.KAFKA_BOOTSTRAP_SERVERS


def is_mock_cluster(cluster_id: str) -> bool:
    """Whether this is librdkafka's own broker, which answers fewer requests and keeps about 5 MB a partition."""
    return cluster_id.startswith("mockCluster")


def bootstrap_servers() -> str:
    """KAFKA_BOOTSTRAP_SERVERS, else what the embedded broker wrote when it last started. Raises NoBroker."""
    if not uses_embedded_broker():
        return settings.KAFKA_BOOTSTRAP_SERVERS
    path = settings.TASKPULSE_HOME / BROKER_FILE
    if settings.PRODUCTION:
        raise NoBroker("no broker is named: set KAFKA_BOOTSTRAP_SERVERS, since TASKPULSE_MODE is production")
    try:
        return json.loads(path.read_text())["bootstrap_servers"]
    except FileNotFoundError:
        raise NoBroker(
            f"no broker is named: set KAFKA_BOOTSTRAP_SERVERS, or run `manage.py up`, which starts one ({path})"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoBroker(f"{path}: cannot be read ({type(error).__name__}); `manage.py up` writes it") from None


def _client_settings() -> dict:
    return {
        "bootstrap.servers": bootstrap_servers(),
        **settings.KAFKA_SECURITY,
        "client.id": "taskpulse",
        "socket.keepalive.enable": True,
        "socket.connection.setup.timeout.ms": 5_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        # Partitions added to the topic are seen within this time.
        "topic.metadata.refresh.interval.ms": 30_000,
        # A broker closes idle connections; that is no news.
        "log.connection.close": False,
        # On the embedded broker asking for a topic makes it; on Kafka `ensure_topic` does, with our settings. A broker with
        # auto.create.topics.enable would else make it with its own as soon as a producer or an admin client asks for it.
        "allow.auto.create.topics": uses_embedded_broker(),
        "logger": logger,
    }


def producer_settings() -> dict:
    """Idempotent (KIP-98): librdkafka's own retries neither reorder nor repeat within a producer's life."""
    return _client_settings() | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 2,
        "compression.type": "lz4",
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "message.timeout.ms": 30_000,
        "request.timeout.ms": 10_000,
        "queue.buffering.max.kbytes": 32 * 1024,
    }


def consumer_settings(group: str) -> dict:
    """Nothing is committed but by the caller; memory is bounded; a lost member is noticed within 6 seconds, which is the
    least that a broker takes unless it is told otherwise (group.min.session.timeout.ms); one that left, with the next heartbeat.

    The embedded broker takes less, and lets a rebalance last for the session's time less a second (rdkafka_mock_cgrp.c): with
    6 seconds a consumer that comes after a killed one waited for 11.
    """
    return _client_settings() | {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 1_500 if uses_embedded_broker() else 6_000,
        "heartbeat.interval.ms": 300 if uses_embedded_broker() else 500,
        "max.poll.interval.ms": 600_000,
        "queued.max.messages.kbytes": 16 * 1024,
        "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
        # Kafka answers as soon as there is a byte; the embedded broker always takes the whole time.
        "fetch.wait.max.ms": 10 if uses_embedded_broker() else 500,
        "fetch.error.backoff.ms": 100,
        # How long fetching rests once the queue is full; the default of a second would starve a fast handler.
        "fetch.queue.backoff.ms": 10,
    }


# What librdkafka's fatal error says when another consumer joins with the same group.instance.id.
FENCED = "fenced by other consumer"


def membership_settings() -> dict:
    """Static membership (KIP-345), where KAFKA_GROUP_INSTANCE_ID names this process: after a crash the next process of that
    name takes its partitions at once, and does not wait for the session of the lost one to end."""
    return {"group.instance.id": settings.KAFKA_GROUP_INSTANCE_ID} if settings.KAFKA_GROUP_INSTANCE_ID else {}


def admin_settings() -> dict:
    """An admin client is never polled, so that its messages would only pile up; what fails is raised by the call."""
    return _client_settings() | {"log_level": 0}


def ensure_topic(name: str, partitions: int | None = None, replication: int | None = None, config: dict | None = None) -> None:
    """The topic is there and each of its partitions answers when this returns; an existing one is left as it is.

    Partitions and replication are KAFKA_PARTITIONS and KAFKA_REPLICATION_FACTOR unless given, retention is
    KAFKA_RETENTION_HOURS; the embedded broker has its own. Raises KafkaException or NoBroker.
    """
    client = AdminClient(admin_settings())
    if uses_embedded_broker():
        topic = client.list_topics(name, timeout=REQUEST_TIMEOUT).topics[name]
        if topic.error is not None:
            raise KafkaException(topic.error)
        return
    wanted = NewTopic(
        name,
        num_partitions=partitions or settings.KAFKA_PARTITIONS,
        replication_factor=replication or settings.KAFKA_REPLICATION_FACTOR,
        config={"retention.ms": str(settings.KAFKA_RETENTION_HOURS * 3_600_000)} | (config or {}),
    )
    (made,) = client.create_topics([wanted], operation_timeout=REQUEST_TIMEOUT, request_timeout=REQUEST_TIMEOUT).values()
    try:
        made.result(2 * REQUEST_TIMEOUT)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    _await_service(client, name)


def _await_service(client: AdminClient, name: str) -> None:
    """The controller's answer comes before the brokers know of the topic (KRaft: metadata are propagated afterwards), and
    a leader is named before it serves its partition."""
    end = time.monotonic() + REQUEST_TIMEOUT
    while (error := _unserved(client, name)) is not None:
        if time.monotonic() > end:
            raise KafkaException(error)
        time.sleep(0.05)


def _unserved(client: AdminClient, name: str) -> KafkaError | None:
    """Why the topic cannot be used yet; None when each of its partitions answers."""
    topic = client.list_topics(name, timeout=REQUEST_TIMEOUT).topics[name]
    if topic.error is not None or not topic.partitions:
        return topic.error or KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    partitions = {TopicPartition(name, number): OffsetSpec.latest() for number in topic.partitions}
    for future in client.list_offsets(partitions, request_timeout=REQUEST_TIMEOUT).values():
        try:
            future.result(2 * REQUEST_TIMEOUT)
        except KafkaException as error:
            return error.args[0]
    return None
