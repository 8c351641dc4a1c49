"""The relay in trouble: what the broker refuses, outages, crashes; nothing is lost, and nothing set aside but for good."""

import json
import threading

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient
from django.db import OperationalError, connection

from taskpulse import kafka
from taskpulse.metrics import REPUBLISHED
from tasks import barrier, delivery
from tasks.models import OutboxEvent
from tests.mock_cluster import Request
from tests.recording import messages, record, task_with_versions, waiting
from tests.relaying import add, drain, hold, on_topic, unpublished, until, versions

# What the broker refuses


def test_a_refused_event_is_held_and_only_its_subject_waits(start_relay, topic, monkeypatch):
    own = kafka.producer_settings
    monkeypatch.setattr(kafka, "producer_settings", lambda: own() | {"message.max.bytes": 2_000})
    add(("a", 1), ("b", 1))
    add(("a", 2), size=5_000)
    add(("a", 3), ("b", 2))
    drain(start_relay())
    assert versions(topic) == {"a": [1], "b": [1, 2]}
    row = OutboxEvent.objects.get(subject_id="a", version=2)
    assert row.held_at is not None
    assert row.held_reason.startswith("refused by the broker: ")
    assert row.published_at is None
    assert unpublished() == [("a", 3)]


def test_a_refused_batch_condemns_no_event_that_passes_alone(start_relay, faulty_broker, settings):
    """A broker's limit is for a record batch: the one that exceeded it need not hold an event that does."""
    add(("a", 1), ("a", 2), ("b", 1))
    one = start_relay()
    faulty_broker.answer_with(Request.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
    drain(one)
    assert not OutboxEvent.objects.filter(held_at__isnull=False).exists()
    assert unpublished() == []
    arrived = versions(settings.KAFKA_TOPIC)
    assert set(arrived["a"]) == {1, 2}
    assert arrived["a"][-1] == 2


def test_what_the_broker_refuses_alone_too_is_held(start_relay, faulty_broker):
    add(("a", 1), ("a", 2))
    one = start_relay()
    faulty_broker.answer_with(Request.PRODUCE, *[KafkaError.INVALID_RECORD] * 2)
    one.step()
    assert OutboxEvent.objects.get(version=1).held_reason.startswith("refused by the broker: ")
    drain(one)
    assert unpublished() == [("a", 2)]


def test_a_broker_that_refuses_everything_does_not_hold_everything(start_relay, settings, monkeypatch, caplog):
    settings.MAX_HELD_ROWS = 3
    own = kafka.producer_settings
    monkeypatch.setattr(kafka, "producer_settings", lambda: own() | {"message.max.bytes": 1_000})
    add(*((f"s{number}", 1) for number in range(6)), size=3_000)
    one = start_relay()
    for _ in range(4):
        assert not one.step()
    assert OutboxEvent.objects.filter(held_at__isnull=False).count() == 3
    assert len(unpublished()) == 3
    assert sum("MAX_HELD_ROWS" in record.getMessage() for record in caplog.records) == 1


def test_an_outage_for_a_topic_is_no_refusal(start_relay, faulty_broker):
    add(("a", 1))
    one = start_relay()
    faulty_broker.answer_with(Request.PRODUCE, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert not one.step()
    assert one.pause > 0
    assert unpublished() == [("a", 1)]
    assert OutboxEvent.objects.get().held_at is None
    until(lambda: one.step())
    assert unpublished() == []


# Outages and crashes


def test_an_outage_sets_nothing_aside_and_the_relay_resumes(start_relay, wipeable_broker, settings, caplog, monkeypatch):
    monkeypatch.setattr(delivery, "CONNECT_TIMEOUT", 0.3)
    one = start_relay()
    add(("a", 1))
    drain(one)
    wipeable_broker.kill()
    add(("a", 2), ("b", 1))
    with caplog.at_level("INFO"):
        for _ in range(4):
            assert not one.step()
            assert 0 < one.pause <= 2
        assert unpublished() == [("a", 2), ("b", 1)]
        assert not OutboxEvent.objects.filter(held_at__isnull=False).exists()
        wipeable_broker.start()  # on another port
        until(lambda: one.step())
    drain(one)
    assert versions(settings.KAFKA_TOPIC) == {"a": [2], "b": [1]}
    assert {record.name for record in caplog.records} == {"taskpulse.relay"}
    said = [record.getMessage() for record in caplog.records if "publishing to Kafka" in record.getMessage()]
    assert "refused" in said[0]  # the cause, not only its consequence
    assert [message.split(",")[0].split(" after")[0] for message in said] == [
        "publishing to Kafka failed",
        "publishing to Kafka works again",
    ]


def test_the_cause_of_an_outage_is_said_though_its_consequence_is_reported_first(wipeable_broker, settings, monkeypatch):
    """In which order librdkafka reports them depends on how busy the machine is."""
    on_error = delivery.Delivery._on_error
    early = []

    def consequence_first(self, error):
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            early.append(error)
            return
        on_error(self, error)
        threading.Timer(0.3, lambda: [on_error(self, each) for each in early]).start()

    monkeypatch.setattr(delivery.Delivery, "_on_error", consequence_first)
    one = delivery.Delivery(settings.KAFKA_TOPIC, lambda: True)
    one.open()
    wipeable_broker.kill()
    report = one.send([delivery.Row(1, "task", "a", 1, None, b"{}")])
    assert not report.delivered
    assert "brokers are down (" in report.trouble
    assert any(error.str() in report.trouble for error in early)


def test_a_fatal_error_makes_the_producer_anew(start_relay, topic):
    one = start_relay()
    add(("a", 1))
    drain(one)
    before = one._delivery._producer
    one._delivery._on_error(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "injected", True))
    add(("a", 2))
    until(one.step)
    assert one._delivery._producer is not before
    assert versions(topic) == {"a": [1, 2]}


def test_a_wiped_broker_gets_everything_again(start_relay, wipeable_broker, settings, monkeypatch):
    monkeypatch.setattr(barrier, "INTERVAL", 0.05)
    one = start_relay()
    add(("a", 1), ("a", 2), ("b", 1))
    drain(one)
    wipeable_broker.kill()
    wipeable_broker.start()
    before = REPUBLISHED._value.get()

    def all_there() -> bool:
        one.step()
        return len(on_topic(settings.KAFKA_TOPIC)) >= 3

    until(all_there, 20)
    assert versions(settings.KAFKA_TOPIC) == {"a": [1, 2], "b": [1]}
    assert REPUBLISHED._value.get() - before == 3


def test_a_crash_between_delivery_and_mark_repeats_and_loses_nothing(start_relay, topic, monkeypatch):
    add(("a", 1), ("b", 1))
    one = start_relay()

    def die(rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_mark", die)
    with pytest.raises(KeyboardInterrupt):
        one.step()
    one.close()
    assert unpublished() == [("a", 1), ("b", 1)]
    drain(start_relay())
    assert versions(topic) == {"a": [1, 1], "b": [1, 1]}
    assert unpublished() == []


def test_delivered_rows_are_marked_when_the_database_is_back(start_relay, topic, monkeypatch, caplog):
    one = start_relay()
    one.step()
    add(("a", 1))
    mark = one._queue.mark

    def fail_once(sent):
        if not failed:
            failed.append(True)
            raise OperationalError("the connection is lost")
        return mark(sent)

    failed = []
    monkeypatch.setattr(one._queue, "mark", fail_once)
    assert not one.step()
    assert unpublished() == [("a", 1)]
    drain(one)
    assert unpublished() == []
    assert versions(topic) == {"a": [1]}


@pytest.mark.parametrize("outcome", ["COMMIT", "ROLLBACK"])
def test_a_row_that_the_recorder_is_removing_is_neither_waited_for_nor_sent_again(start_relay, topic, outcome, monkeypatch):
    """Its message can be recorded before it is marked. Waiting for the recorder while holding rows could deadlock."""
    one = start_relay()
    add(("a", 1), ("b", 1))
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '2s'")  # rather a failure than a test that hangs
    send = one._delivery.send
    recorder = connection.copy()

    def send_and_record(rows):
        report = send(rows)
        with recorder.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("DELETE FROM tasks_outbox WHERE subject_id = 'a'")
        return report

    monkeypatch.setattr(one._delivery, "send", send_and_record)
    assert one.step()
    monkeypatch.undo()
    assert unpublished() == [("a", 1)]
    assert not one.step()
    recorder.cursor().execute(outcome)
    recorder.close()
    drain(one)
    assert versions(topic) == {"a": [1], "b": [1]}
    assert unpublished() == []
    assert one._unmarked == {}


def after_sending(one, monkeypatch, act) -> None:
    """Once, when a batch is delivered and not yet marked."""
    send = one._delivery.send

    def send_and_act(rows):
        report = send(rows)
        monkeypatch.setattr(one._delivery, "send", send)
        act(rows)
        return report

    monkeypatch.setattr(one._delivery, "send", send_and_act)


def test_a_mark_does_not_undo_that_the_recorder_sent_the_event_back(start_relay, topic, monkeypatch):
    """A message can be recorded, or sent back, before its row is marked. A row that is marked all the same would wait for
    loss detection."""
    task = task_with_versions(3)
    one = start_relay()
    after_sending(one, monkeypatch, lambda rows: record(messages(waiting(task.pk)[1:])))
    assert one.step()
    assert [(row.version, row.published_at is None) for row in waiting(task.pk)] == [(1, False), (2, True), (3, True)]
    drain(one)
    assert [json.loads(message.value())["sequence"][-1] for message in on_topic(topic)] == ["1", "2", "3", "2", "3"]
    assert [row.attempts for row in waiting(task.pk)] == [1, 2, 2]


def test_a_mark_does_not_touch_what_the_recorder_holds(start_relay, topic, monkeypatch):
    (row_id,) = add(("a", 1))
    one = start_relay()
    after_sending(one, monkeypatch, lambda rows: hold(row_id))
    assert one.step()
    assert OutboxEvent.objects.get().published_at is None
    OutboxEvent.objects.update(held_at=None, held_reason=None)
    drain(one)
    assert versions(topic) == {"a": [1, 1]}
    assert unpublished() == []


def test_no_row_is_locked_while_the_relay_talks(start_relay, committed_db, monkeypatch):
    one = start_relay()
    (row_id,) = add(("a", 1))
    send = one._delivery.send

    def send_and_look(rows):
        assert not connection.in_atomic_block
        with psycopg.connect(committed_db, autocommit=True) as other:
            other.execute("SELECT FROM tasks_outbox WHERE id = %s FOR UPDATE NOWAIT", [row_id])
        return send(rows)

    monkeypatch.setattr(one._delivery, "send", send_and_look)
    assert one.step()


def test_no_client_of_ours_makes_a_topic_by_asking_for_it(faulty_broker, settings):
    """A broker that makes topics on demand would make it with its own number of partitions, before the relay does with ours."""
    settings.KAFKA_BOOTSTRAP_SERVERS = faulty_broker.bootstrap_servers
    clients = Producer(kafka.producer_settings()), AdminClient(kafka.admin_settings()), Consumer(kafka.consumer_settings("g"))
    for number, client in enumerate(clients):
        assert client.list_topics(f"t{number}", timeout=5).topics[f"t{number}"].error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert clients[0].list_topics(timeout=5).topics == {}
    clients[2].close()
