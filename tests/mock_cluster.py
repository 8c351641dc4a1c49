"""A broker that fails at will: librdkafka's mock cluster and its fault injection (rdkafka_mock.h)."""

import ctypes
from enum import IntEnum

from taskpulse.embedded.broker import MockCluster

_BROKER = 1


class Request(IntEnum):
    """Kafka protocol API keys."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12


class FaultyBroker(MockCluster):
    """One broker with id 1. Error codes are KafkaError's."""

    def answer_with(self, request: Request, *codes: int) -> None:
        """The next requests of this kind fail with these, one after the other; 0 lets one pass."""
        self.library.rd_kafka_mock_push_request_errors_array(
            self.handle, ctypes.c_int16(request), ctypes.c_size_t(len(codes)), (ctypes.c_int * len(codes))(*codes)
        )

    def create_topic(self, name: str, partitions: int) -> None:
        self._check(self.library.rd_kafka_mock_topic_create(self.handle, name.encode(), ctypes.c_int(partitions), ctypes.c_int(1)))

    def delay(self, milliseconds: int) -> None:
        """Each answer takes so much longer from now on."""
        self._check(self.library.rd_kafka_mock_broker_set_rtt(self.handle, ctypes.c_int32(_BROKER), ctypes.c_int(milliseconds)))

    def down(self) -> None:
        """Cuts every connection and takes no new one; what is stored stays."""
        self._check(self.library.rd_kafka_mock_broker_set_down(self.handle, ctypes.c_int32(_BROKER)))

    def up(self) -> None:
        self._check(self.library.rd_kafka_mock_broker_set_up(self.handle, ctypes.c_int32(_BROKER)))

    def lose_before(self, topic: str, partition: int, offset: int) -> None:
        """Raises the partition's low watermark: what lies below is gone, read or not."""
        self._check(
            self.library.rd_kafka_mock_partition_delete_records(
                self.handle, topic.encode(), ctypes.c_int32(partition), ctypes.c_int64(offset)
            )
        )

    @staticmethod
    def _check(code: int) -> None:
        assert code == 0, f"librdkafka: error {code}"
