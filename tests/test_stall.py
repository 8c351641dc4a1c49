"""A consumer that receives nothing although there is something: noticed, made anew, and not alive once that did not help."""

import time

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from audit.recorder import Recorder
from taskpulse import event_consumer, stall
from taskpulse.event_consumer import EventConsumer
from taskpulse.stall import StallWatch


class Client:
    """What librdkafka says of one partition; `away` for a broker that does not answer."""

    def __init__(self, position: int, high: int, committed: int = 0, low: int = 0):
        self.at, self.high, self.group, self.low, self.away = position, high, committed, low, False

    def assignment(self):
        return [TopicPartition("events", 0)]

    def committed(self, partitions, timeout):
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return [TopicPartition("events", 0, self.group)]

    def position(self, partitions):
        return [TopicPartition("events", 0, self.at)]

    def get_watermark_offsets(self, partition, timeout):
        return self.low, self.high


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(stall, "INTERVAL", 0.0)


def test_who_stands_behind_the_end_at_two_looks_is_stalled_and_new_clients_that_do_not_help_are_counted():
    watch, client = StallWatch(), Client(position=3, high=7)
    assert [watch.is_stalled(client) for _ in range(4)] == [False, True, False, True]
    assert watch.helpless == 2
    watch.received()
    assert watch.helpless == 0


@pytest.mark.parametrize("client", [Client(position=7, high=7), Client(position=-1001, high=7, committed=7)])
def test_who_is_at_the_end_is_not(client):
    watch = StallWatch()
    assert not any(watch.is_stalled(client) for _ in range(4))


def test_who_moves_or_has_no_answer_is_not():
    watch, client = StallWatch(), Client(position=3, high=7)
    assert not watch.is_stalled(client)
    client.at = 4
    assert not watch.is_stalled(client)
    client.away = True
    assert not any(watch.is_stalled(client) for _ in range(3))
    assert watch.helpless == 0


def test_a_consumer_whose_new_clients_did_not_help_is_stuck():
    consumer = EventConsumer(Recorder())
    assert consumer.stuck() is None
    consumer._stall.helpless = 1
    assert consumer.stuck() is None
    consumer._stall.helpless = 2
    assert consumer.stuck() == "there are messages and none is received, though the client was made anew"


def test_a_consumer_whose_client_does_not_come_back_is_stuck_and_one_that_waits_for_postgresql_is_not():
    consumer = EventConsumer(Recorder())
    consumer.beat = time.monotonic() - event_consumer.FROZEN - 1
    assert consumer.stuck().startswith("the Kafka client has not come back for 30")

    class Asked(Recorder):
        said = "not asked"

        def handle(self, messages):
            consumer.beat = time.monotonic() - event_consumer.FROZEN - 1
            self.said = consumer.stuck()

    handler = Asked()
    consumer = EventConsumer(handler)
    consumer._member = Member()
    consumer.step(0)
    assert handler.said is None


class Member:
    """A client with one message."""

    brokers_down = False

    def __init__(self):
        self.client = self

    def poll(self, timeout):
        return b"message"

    def consume(self, count, timeout):
        return []

    def assignment(self):
        return []

    def is_event(self, message):
        return True

    def handled(self, messages):
        pass

    def commit(self, asynchronous):
        pass
