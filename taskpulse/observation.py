"""What the broker says of a topic and of a group's place in it, asked by a client of its own."""

import logging
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from taskpulse import kafka

logger = logging.getLogger("taskpulse.kafka")

# Seconds that one request to the broker may take.
REQUEST_TIMEOUT = 3.0


@dataclass(frozen=True)
class Observation:
    """The broker at one moment: `lows`, `highs` (watermarks) and `commits` (the group's next offset) by partition.

    A partition that the group never committed is absent from `commits`. `topic_id` is None where it is not known.
    """

    cluster_id: str
    topic_id: str | None
    lows: dict[int, int]
    highs: dict[int, int]
    commits: dict[int, int]

    def lag(self) -> dict[int, int]:
        """Messages that the group has still to commit, by partition. A commit above the high watermark was made in an
        earlier life of the log and counts for nothing."""
        found = {}
        for partition, high in self.highs.items():
            commit = self.commits.get(partition, -1)
            start = commit if commit <= high else -1
            found[partition] = high - max(start, self.lows[partition])
        return found


class Observer:
    """Reads an Observation. Any failure drops the client: the embedded broker comes back on other ports."""

    def __init__(self, topic: str, group: str):
        self._topic, self._group = topic, group
        self._client: AdminClient | None = None

    def observe(self) -> Observation:
        """Raises KafkaException, kafka.NoBroker or TimeoutError when the broker does not answer."""
        try:
            self._client = self._client or AdminClient(kafka.admin_settings())
            return self._read(self._client)
        except BaseException:
            self._client = None
            raise

    def _read(self, client: AdminClient) -> Observation:
        metadata = client.list_topics(self._topic, timeout=REQUEST_TIMEOUT)
        topic = metadata.topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        partitions = [TopicPartition(self._topic, number) for number in topic.partitions]
        latest = client.list_offsets({p: OffsetSpec.latest() for p in partitions}, request_timeout=REQUEST_TIMEOUT)
        earliest = client.list_offsets({p: OffsetSpec.earliest() for p in partitions}, request_timeout=REQUEST_TIMEOUT)
        topic_id = self._topic_id(client, metadata.cluster_id)
        highs = {p.partition: future.result(REQUEST_TIMEOUT).offset for p, future in latest.items()}
        lows = {p.partition: future.result(REQUEST_TIMEOUT).offset for p, future in earliest.items()}
        return Observation(metadata.cluster_id, topic_id, lows, highs, self._commits(client, partitions))

    def _commits(self, client: AdminClient, partitions: list[TopicPartition]) -> dict[int, int]:
        # A request of its own for each group and partitions: librdkafka alters what it is given.
        request = ConsumerGroupTopicPartitions(self._group, [TopicPartition(p.topic, p.partition) for p in partitions])
        (future,) = client.list_consumer_group_offsets([request], request_timeout=REQUEST_TIMEOUT).values()
        commits = {}
        for committed in future.result(REQUEST_TIMEOUT).topic_partitions:
            if committed.error is not None:
                raise KafkaException(committed.error)
            if committed.offset >= 0:
                commits[committed.partition] = committed.offset
        return commits

    def _topic_id(self, client: AdminClient, cluster_id: str) -> str | None:
        """KIP-516. None on a broker that cannot tell; a topic made anew is then seen by its lower watermarks."""
        if kafka.is_mock_cluster(cluster_id):
            return None
        try:
            (future,) = client.describe_topics(TopicCollection([self._topic]), request_timeout=REQUEST_TIMEOUT).values()
            return str(future.result(REQUEST_TIMEOUT).topic_id)
        except KafkaException as error:
            logger.debug("no topic id: %s", error)
            return None
