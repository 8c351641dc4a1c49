"""The relay: every outbox row reaches the topic, in version order within its subject, whatever fails."""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from taskpulse import kafka
from taskpulse.embedded.broker import MockCluster
from taskpulse.worker import Stop
from tasks import barrier, delivery, events, relay
from tasks.models import OutboxEvent, Task
from tasks.relay import Relay

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def start(committed_db, topic):
    """Makes relays, and closes them."""
    made = []

    def make(*arguments) -> Relay:
        made.append(Relay(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def mock_cluster(topic, settings):
    """An embedded broker within the test's own process, which can be made to fail."""
    cluster = MockCluster()
    settings.KAFKA_BOOTSTRAP_SERVERS = cluster.bootstrap_servers
    yield cluster
    cluster.close()


@pytest.fixture
def mock_errors(mock_cluster):
    """Makes the next produce requests fail with these codes."""
    push_errors = mock_cluster.library.rd_kafka_mock_push_request_errors
    push_errors.argtypes, push_errors.restype = [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t], None
    produce = 0  # the protocol's key of the request
    return lambda *codes: push_errors(mock_cluster.handle, produce, len(codes), *(ctypes.c_int(code) for code in codes))


def add(*rows, size: int = 0, task_id=None) -> list[int]:
    """Inserts outbox rows in this order, each `(subject, version)`; returns their ids."""
    ids = []
    with connection.cursor() as cursor:
        for subject, version in rows:
            event_id = uuid.uuid4()
            payload = json.dumps({"id": str(event_id), "v": [subject, version], "x": "x" * size}).encode()
            cursor.execute(
                "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload) "
                "VALUES (%s, 'task', %s, %s, %s, %s) RETURNING id",
                [event_id, subject, version, task_id, payload],
            )
            ids.append(cursor.fetchone()[0])
    return ids


def drain(one: Relay, steps: int = 50) -> int:
    """Steps until nothing is left to do; returns how many steps found work."""
    for count in range(steps):
        if not one.step():
            return count
    pytest.fail(f"still busy after {steps} steps")


def until(condition, seconds: float = 10.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def on_topic(topic: str) -> list:
    """All messages of the topic; within a partition in order."""
    consumer = Consumer(kafka.consumer_settings(f"reader-{uuid.uuid4()}"))
    wanted = []
    for number in consumer.list_topics(topic, 10).topics[topic].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
        wanted += [TopicPartition(topic, number, low)] * (high > low)
    count = sum(consumer.get_watermark_offsets(p, 10)[1] - p.offset for p in wanted)
    messages, end = [], time.monotonic() + 20
    if wanted:
        consumer.assign(wanted)
    while len(messages) < count and time.monotonic() < end:
        messages += [message for message in consumer.consume(count, 0.2) if message.error() is None]
    consumer.close()
    return messages


def versions(topic: str) -> dict[str, list]:
    """What arrived, by subject, in the order of arrival."""
    arrived: dict[str, list] = {}
    for message in on_topic(topic):
        subject, version = json.loads(message.value())["v"]
        arrived.setdefault(subject, []).append(version)
    return arrived


def unpublished() -> list[tuple]:
    rows = OutboxEvent.objects.filter(published_at=None, held_at=None)
    return list(rows.order_by("subject_id", "version").values_list("subject_id", "version"))


def hold(row_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_outbox SET held_at = now(), held_reason = 'test' WHERE id = %s", [row_id])


# What goes out


def test_an_event_goes_out_as_it_was_written(start, topic):
    task = Task.objects.create(title="Prüfe das Dach")
    assert drain(start()) == 1
    (message,) = on_topic(topic)
    row = OutboxEvent.objects.get()
    assert message.value() == bytes(row.payload)
    assert message.key() == str(task.pk).encode()
    assert message.headers() == [("content-type", events.CONTENT_TYPE)]
    assert row.published_at is not None
    assert row.attempts == 1


def test_the_key_is_the_task_else_the_subject(start, topic):
    task_id = uuid.uuid4()
    add(("comment-1", 1), task_id=task_id)
    add(("taskpulse/audit", None), ("taskpulse/audit", None))
    drain(start())
    assert sorted(message.key().decode() for message in on_topic(topic)) == sorted(
        [str(task_id), "taskpulse/audit", "taskpulse/audit"]
    )


def test_a_step_costs_a_few_statements_whatever_the_batch(start):
    """The look for losses (once a second), the count for the window, the selection, the marks."""
    one = start()
    one.step()
    counts = []
    for size in (5, 500):
        add(*((f"{size}-{number}", 1) for number in range(size)))
        with CaptureQueriesContext(connection) as queries:
            assert one.step()
        counts.append(len(queries))
    assert max(counts) <= 4


# Order


def test_versions_go_out_in_order_though_ids_are_not(start, topic, settings):
    """The backstop writes its events at the commit: version 2 may have a higher id than version 3."""
    settings.RELAY_BATCH = 2
    add(("a", 3), ("b", 1), ("a", 4), ("a", 1), ("b", 2), ("a", 2))
    drain(start())
    assert versions(topic) == {"a": [1, 2, 3, 4], "b": [1, 2]}
    assert len(on_topic(topic)) == 6


def test_any_order_of_ids_and_any_batch(start, topic, settings):
    chance = random.Random(5)
    rows = [(f"s{subject}", version) for subject in range(8) for version in range(1, 9)]
    one = start()
    for size in (1, 3, 7, 1000):
        settings.RELAY_BATCH = size
        chance.shuffle(rows)
        add(*((f"{size}-{subject}", version) for subject, version in rows))
        drain(one, 100)
    arrived = versions(topic)
    assert len(arrived) == 32
    assert set(map(tuple, arrived.values())) == {tuple(range(1, 9))}


def test_later_versions_whose_earlier_ones_came_after_them_all_do_not_starve(start, topic, settings):
    settings.RELAY_BATCH = 10
    add(*((f"s{number}", 2) for number in range(40)), *((f"s{number}", 1) for number in range(40)))
    assert drain(start()) == 8
    assert set(map(tuple, versions(topic).values())) == {(1, 2)}


def test_a_held_row_stops_its_subject_and_nothing_else(start, topic):
    held, *_ = add(("a", 3), ("a", 4), ("b", 1), ("a", 1), ("a", 2), ("log", None))
    hold(held)
    one = start()
    drain(one)
    assert sorted(versions(topic).items()) == [("a", [1, 2]), ("b", [1]), ("log", [None])]
    assert unpublished() == [("a", 4)]
    OutboxEvent.objects.filter(pk=held).update(held_at=None, held_reason=None)
    drain(one)
    assert versions(topic)["a"] == [1, 2, 3, 4]


def test_ten_thousand_versions_behind_a_held_row_starve_nobody(start, topic, settings):
    settings.RELAY_BATCH = 10
    (held,) = add(("a", 1))
    hold(held)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload) "
            "SELECT id, 'task', 'a', number, convert_to(json_build_object('id', id)::text, 'UTF8') "
            "FROM (SELECT uuidv7() AS id, number FROM generate_series(2, 10001) number) n"
        )
    add(*((f"s{number}", 1) for number in range(20)))
    assert drain(start()) == 2
    assert len(versions(topic)) == 20


# What the broker refuses


def test_a_refused_event_is_held_and_only_its_subject_waits(start, topic, monkeypatch):
    own = kafka.producer_settings
    monkeypatch.setattr(kafka, "producer_settings", lambda: own() | {"message.max.bytes": 2_000})
    add(("a", 1), ("b", 1))
    add(("a", 2), size=5_000)
    add(("a", 3), ("b", 2))
    drain(start())
    assert versions(topic) == {"a": [1], "b": [1, 2]}
    row = OutboxEvent.objects.get(subject_id="a", version=2)
    assert row.held_at is not None
    assert row.held_reason.startswith("refused by the broker: ")
    assert row.published_at is None
    assert unpublished() == [("a", 3)]


def test_a_refused_batch_condemns_no_event_that_passes_alone(start, mock_errors, settings):
    """A broker's limit is for a record batch: the one that exceeded it need not hold an event that does."""
    add(("a", 1), ("a", 2), ("b", 1))
    one = start()
    mock_errors(KafkaError.MSG_SIZE_TOO_LARGE)
    drain(one)
    assert not OutboxEvent.objects.filter(held_at__isnull=False).exists()
    assert unpublished() == []
    arrived = versions(settings.KAFKA_TOPIC)
    assert set(arrived["a"]) == {1, 2}
    assert arrived["a"][-1] == 2


def test_what_the_broker_refuses_alone_too_is_held(start, mock_errors):
    add(("a", 1), ("a", 2))
    one = start()
    mock_errors(*[KafkaError.INVALID_RECORD] * 2)
    one.step()
    assert OutboxEvent.objects.get(version=1).held_reason.startswith("refused by the broker: ")
    drain(one)
    assert unpublished() == [("a", 2)]


def test_a_broker_that_refuses_everything_does_not_hold_everything(start, settings, monkeypatch, caplog):
    settings.MAX_HELD_ROWS = 3
    own = kafka.producer_settings
    monkeypatch.setattr(kafka, "producer_settings", lambda: own() | {"message.max.bytes": 1_000})
    add(*((f"s{number}", 1) for number in range(6)), size=3_000)
    one = start()
    for _ in range(4):
        assert not one.step()
    assert OutboxEvent.objects.filter(held_at__isnull=False).count() == 3
    assert len(unpublished()) == 3
    assert sum("MAX_HELD_ROWS" in record.getMessage() for record in caplog.records) == 1


def test_an_outage_for_a_topic_is_no_refusal(start, mock_errors):
    add(("a", 1))
    one = start()
    mock_errors(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert not one.step()
    assert one.pause > 0
    assert unpublished() == [("a", 1)]
    assert OutboxEvent.objects.get().held_at is None
    until(lambda: one.step())
    assert unpublished() == []


# Outages and crashes


def test_an_outage_sets_nothing_aside_and_the_relay_resumes(start, wipeable_broker, settings, caplog, monkeypatch):
    monkeypatch.setattr(delivery, "CONNECT_TIMEOUT", 0.3)
    one = start()
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


def test_a_fatal_error_makes_the_producer_anew(start, topic):
    one = start()
    add(("a", 1))
    drain(one)
    before = one._delivery._producer
    one._delivery._on_error(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "injected", True))
    add(("a", 2))
    until(one.step)
    assert one._delivery._producer is not before
    assert versions(topic) == {"a": [1, 2]}


def test_a_wiped_broker_gets_everything_again(start, wipeable_broker, settings, monkeypatch):
    monkeypatch.setattr(barrier, "INTERVAL", 0.05)
    one = start()
    add(("a", 1), ("a", 2), ("b", 1))
    drain(one)
    wipeable_broker.kill()
    wipeable_broker.start()
    before = relay.REPUBLISHED._value.get()

    def all_there() -> bool:
        one.step()
        return len(on_topic(settings.KAFKA_TOPIC)) >= 3

    until(all_there, 20)
    assert versions(settings.KAFKA_TOPIC) == {"a": [1, 2], "b": [1]}
    assert relay.REPUBLISHED._value.get() - before == 3


def test_a_crash_between_delivery_and_mark_repeats_and_loses_nothing(start, topic, monkeypatch):
    add(("a", 1), ("b", 1))
    one = start()

    def die(rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_mark", die)
    with pytest.raises(KeyboardInterrupt):
        one.step()
    one.close()
    assert unpublished() == [("a", 1), ("b", 1)]
    drain(start())
    assert versions(topic) == {"a": [1, 1], "b": [1, 1]}
    assert unpublished() == []


def test_delivered_rows_are_marked_when_the_database_is_back(start, topic, monkeypatch, caplog):
    one = start()
    one.step()
    add(("a", 1))
    execute = one._execute

    def fail_once(statement, parameters):
        if statement is relay._MARK and not failed:
            failed.append(True)
            raise OperationalError("the connection is lost")
        return execute(statement, parameters)

    failed = []
    monkeypatch.setattr(one, "_execute", fail_once)
    assert not one.step()
    assert unpublished() == [("a", 1)]
    drain(one)
    assert unpublished() == []
    assert versions(topic) == {"a": [1]}


@pytest.mark.parametrize("outcome", ["COMMIT", "ROLLBACK"])
def test_a_row_that_the_recorder_is_removing_is_neither_waited_for_nor_sent_again(start, topic, outcome, monkeypatch):
    """Its message can be recorded before it is marked. Waiting for the recorder while holding rows could deadlock."""
    one = start()
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
    assert one._unmarked == set()


def test_no_row_is_locked_while_the_relay_talks(start, committed_db, monkeypatch):
    one = start()
    (row_id,) = add(("a", 1))
    send = one._delivery.send

    def send_and_look(rows):
        assert not connection.in_atomic_block
        with psycopg.connect(committed_db, autocommit=True) as other:
            other.execute("SELECT FROM tasks_outbox WHERE id = %s FOR UPDATE NOWAIT", [row_id])
        return send(rows)

    monkeypatch.setattr(one._delivery, "send", send_and_look)
    assert one.step()


# The window


@pytest.mark.parametrize("embedded", [True, False])
def test_at_most_the_window_is_published_and_not_recorded(start, settings, embedded, monkeypatch):
    monkeypatch.setattr(relay, "is_mock_cluster", lambda cluster_id: embedded)
    settings.RELAY_WINDOW, settings.RELAY_BATCH = 5, 4
    add(*((f"s{number}", 1) for number in range(12)))
    one = start()
    drain(one)
    assert len(unpublished()) == 7
    time.sleep(0.1)
    assert not one.step()
    recorded = OutboxEvent.objects.exclude(published_at=None).values_list("pk", flat=True)[:3]
    OutboxEvent.objects.filter(pk__in=list(recorded)).delete()
    until(lambda: one.step() and len(unpublished()) == 4)
    drain(one)
    assert len(unpublished()) == 4


def test_the_window_counts_what_an_earlier_relay_published(start, settings):
    settings.RELAY_WINDOW, settings.RELAY_BATCH = 5, 2
    add(*((f"s{number}", 1) for number in range(12)))
    first = start()
    drain(first)
    first.close()
    drain(start())
    assert len(unpublished()) == 7


def test_the_embedded_broker_gets_no_more_unread_bytes_than_it_keeps(start, wipeable_broker, settings):
    add(*((f"s{number}", 1) for number in range(12)), size=800_000)
    drain(start())
    total = sum(len(message.value()) for message in on_topic(settings.KAFKA_TOPIC))
    assert 3_000_000 < total <= 4_000_000


def test_a_batch_is_bounded_in_bytes(start, monkeypatch):
    monkeypatch.setattr(relay, "BATCH_BYTES", 50_000)
    add(("big", 1), size=100_000)
    add(*((f"s{number}", 1) for number in range(6)), size=20_000)
    one = start()
    assert drain(one) == 4


# One active


def test_one_is_active_and_the_other_waits(start):
    first, second = start(), start()
    first.step()
    assert not second.step()
    assert (first.active, second.active, second.pause) == (True, False, relay.STANDBY_POLL)
    add(("a", 1))
    assert not second.step()
    assert unpublished() == [("a", 1)]
    first.close()
    until(second.step)
    assert unpublished() == []


def test_who_loses_the_lock_stops_at_once_and_competes_again(start, topic, committed_db):
    first, second = start(), start()
    first.step()
    add(("a", 1))
    terminate_lock_session(committed_db)
    until(lambda: not first._lock.held())
    second.step()
    assert second.active
    add(("a", 2))
    assert not first.step()
    assert not first.active
    drain(second)
    assert versions(topic) == {"a": [1, 2]}
    second.close()
    add(("a", 3))
    until(lambda: first.step())
    assert first.active


def test_who_loses_the_lock_in_mid_batch_gives_the_batch_up(start, committed_db, mock_cluster):
    one = start()
    drain(one)
    a_minute = 60_000
    mock_cluster.library.rd_kafka_mock_broker_set_rtt(mock_cluster.handle, 1, a_minute)
    add(("a", 1))
    loss = threading.Timer(0.5, terminate_lock_session, [committed_db])
    loss.start()
    begin = time.monotonic()
    assert not one.step()
    assert time.monotonic() - begin < delivery.DELIVERY_TIMEOUT / 2
    loss.join()
    assert unpublished() == [("a", 1)]


def terminate_lock_session(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        ended = session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'taskpulse relay lock' AND datname = current_database()"
        )
        assert ended.fetchall()


@contextmanager
def relay_process(settings):
    # The database is in the environment: the fixture puts it there.
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers(),
        "KAFKA_TOPIC": settings.KAFKA_TOPIC,
        "KAFKA_AUDIT_GROUP": settings.KAFKA_AUDIT_GROUP,
    }
    process = subprocess.Popen(
        [sys.executable, "manage.py", "relay_outbox"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lock_holders() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        )
        return cursor.fetchone()[0]


def test_a_standby_takes_over_within_two_seconds_of_a_kill(start, topic, settings):
    with relay_process(settings) as active:
        add(("a", 1))
        until(lambda: unpublished() == [], 20)
        standby = start()
        assert not standby.step()
        active.send_signal(signal.SIGKILL)
        begin = time.monotonic()
        add(("a", 2))
        stop = Stop()
        while unpublished():
            if not standby.step():
                stop.sleep(standby.pause)
        assert time.monotonic() - begin < 2
    assert versions(topic) == {"a": [1, 2]}


def test_sigterm_ends_the_command_and_frees_the_lock(committed_db, topic, settings):
    with relay_process(settings) as process:
        add(("a", 1))
        until(lambda: unpublished() == [], 20)
        assert lock_holders() == 1
        process.terminate()
        assert process.wait(10) == 0
        until(lambda: lock_holders() == 0)


def test_the_command_stops_between_steps(committed_db, topic, monkeypatch):
    steps = []

    def step(self):
        steps.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(Relay, "step", step)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        call_command("relay_outbox")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert steps == [True]
