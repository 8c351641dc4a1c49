"""Where a topic ends, and whether a group has committed up to there. What the broker does not answer raises KafkaException."""

from confluent_kafka import Consumer, TopicPartition
from django.conf import settings

# Seconds for a question to the broker.
_ANSWER = 10


def high_watermarks(client: Consumer) -> dict[int, int]:
    """Partition: offset of the next message; empty while there is no such topic."""
    topic = client.list_topics(settings.KAFKA_TOPIC, _ANSWER).topics[settings.KAFKA_TOPIC]
    partitions = [TopicPartition(settings.KAFKA_TOPIC, number) for number in topic.partitions]
    return {p.partition: client.get_watermark_offsets(p, _ANSWER)[1] for p in partitions}


def is_caught_up(client: Consumer, marks: dict[int, int]) -> bool:
    """Whether the group has committed up to `marks` (partition: offset), or the broker has dropped what was below them."""
    committed = client.committed([TopicPartition(settings.KAFKA_TOPIC, number) for number in marks], _ANSWER)
    return all(
        p.offset >= marks[p.partition] or client.get_watermark_offsets(p, _ANSWER)[0] >= marks[p.partition] for p in committed
    )
