"""How far a consumer has handled each partition that it owns, and what of it is still to be committed."""

import logging

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

logger = logging.getLogger("taskpulse.consumer")


class Offsets:
    def __init__(self):
        # By topic and partition, as far as this consumer owns it: the offset up to which messages are handled, and those
        # of them that are still to be committed.
        self._handled: dict[tuple[str, int], int] = {}
        self._uncommitted: set[tuple[str, int]] = set()
        self._failing = False

    def handled(self, client: Consumer, messages: list[Message]) -> None:
        """What a rebalance took meanwhile belongs to its next owner, who may be further on."""
        owned = {(p.topic, p.partition) for p in client.assignment()}
        for message in messages:
            if (key := (message.topic(), message.partition())) in owned:
                self._handled[key] = message.offset() + 1
                self._uncommitted.add(key)

    def commit(self, client: Consumer, asynchronous: bool, only=None) -> None:
        """Commits what is handled, of the partitions `only` if given. A failure is noted, never raised."""
        keys = self._uncommitted if only is None else self._uncommitted & only
        offsets = [TopicPartition(*key, self._handled[key]) for key in keys]
        self._uncommitted = self._uncommitted - keys
        if offsets:
            try:
                client.commit(offsets=offsets, asynchronous=asynchronous)
            except KafkaException as error:
                self.answered(error.args[0], offsets)

    def answered(self, error, partitions) -> bool:
        """The broker's answer to a commit; whether all of it was taken.

        A refused commit is tried again with the next step, as far as the partition is still owned: the relay takes
        committed offsets for the sign that nothing was lost on the way, so the last one must not stay undone.
        """
        failed = [p for p in partitions if error is not None or p.error is not None]
        if not failed:
            self._failing = False
            return True
        if not self._failing:
            logger.info("offsets not committed, trying again: %s", error or failed[0].error)
        self._failing = True
        self._uncommitted |= {(p.topic, p.partition) for p in failed} & self._handled.keys()
        return False

    def lost(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._handled.pop((partition.topic, partition.partition), None)
        self._uncommitted &= self._handled.keys()

    def forget(self) -> None:
        """Offsets of a log that is gone mean nothing to the next one."""
        self._handled.clear()
        self._uncommitted.clear()
