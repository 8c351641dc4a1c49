"""A consumer that receives nothing although there is something.

When a topic is deleted and made anew, or a broker comes back without its disk, librdkafka may go on fetching from the
topic that is gone: the group stays as it is, no error is raised, and no message comes until the client is made anew. Or
it goes on in the new topic from where it was in the old one, and what stands before that place is passed over: then the
group, which has lost its offsets with the topic, knows of none where the client has read.
"""

import time

from confluent_kafka import Consumer, KafkaException

# Seconds between two looks while no message comes. Doubled, up to the longest, for each new client that did not help.
INTERVAL = 5.0
LONGEST_INTERVAL = 300.0
# Seconds for one question to the broker.
_ANSWER = 2.0


class StallWatch:
    """`is_stalled()` is to be asked whenever nothing came; it asks the broker once an interval."""

    def __init__(self):
        # New clients in a row that did not help.
        self.helpless = 0
        self._before: dict[int, int] = {}
        self._next = time.monotonic() + INTERVAL

    def received(self) -> None:
        """Messages came: all is well."""
        self.helpless = 0
        self._before = {}
        self._next = time.monotonic() + INTERVAL

    def is_stalled(self, consumer: Consumer) -> bool:
        """True when a partition that is ours was behind (`_behind`) at two looks in a row and its position has not moved."""
        if time.monotonic() < self._next:
            return False
        try:
            behind = _behind(consumer)
        except KafkaException:
            behind = {}  # no answer: whether there is more is not known
        is_stalled = any(self._before.get(partition) == position for partition, position in behind.items())
        self._before = {} if is_stalled else behind
        self.helpless += is_stalled
        self._next = time.monotonic() + min(LONGEST_INTERVAL, INTERVAL * 2 ** min(self.helpless, 10))
        return is_stalled


def _behind(consumer: Consumer) -> dict[int, int]:
    """Position by partition, where it is not the end of the log or the group knows of no offset. Raises KafkaException."""
    assignment = consumer.assignment()
    committed = {p.partition: p.offset for p in consumer.committed(assignment, _ANSWER)}
    positions = {p.partition: p.offset for p in consumer.position(assignment)}
    behind = {}
    for partition in assignment:
        number = partition.partition
        low, high = consumer.get_watermark_offsets(partition, _ANSWER)
        position = positions[number] if positions[number] >= 0 else committed[number]  # nothing read since the assignment
        unread = position != high and (position >= 0 or high > low)
        if unread or (position > low and committed[number] < 0):
            behind[number] = position
    return behind
