"""The relay: every outbox row reaches the topic, in version order within its subject, and no more at once than may."""

import random
import time
import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from taskpulse import kafka
from tasks import events, horizon, relay_queue
from tasks.models import OutboxEvent, Task
from tests.relaying import add, drain, hold, on_topic, unpublished, until, versions

# What goes out


def test_an_event_goes_out_as_it_was_written(start_relay, topic):
    task = Task.objects.create(title="Prüfe das Dach")
    assert drain(start_relay()) == 1
    (message,) = on_topic(topic)
    row = OutboxEvent.objects.get()
    assert message.value() == bytes(row.payload)
    assert message.key() == str(task.pk).encode()
    assert message.headers() == [("content-type", events.CONTENT_TYPE)]
    assert row.published_at is not None
    assert row.attempts == 1


def test_the_key_is_the_task_else_the_subject(start_relay, topic):
    task_id = uuid.uuid4()
    add(("comment-1", 1), task_id=task_id)
    add(("taskpulse/audit", None), ("taskpulse/audit", None))
    drain(start_relay())
    assert sorted(message.key().decode() for message in on_topic(topic)) == sorted(
        [str(task_id), "taskpulse/audit", "taskpulse/audit"]
    )


def test_a_step_costs_a_few_statements_whatever_the_batch(start_relay):
    """The looks for losses and for the horizon (once a second), the count for the window, the selection, the marks."""
    one = start_relay()
    one.step()
    counts = []
    for size in (5, 500):
        add(*((f"{size}-{number}", 1) for number in range(size)))
        with CaptureQueriesContext(connection) as queries:
            assert one.step()
        counts.append(len(queries))
    assert max(counts) <= 6


# Order


def test_versions_go_out_in_order_though_ids_are_not(start_relay, topic, settings):
    """The backstop writes its events at the commit: version 2 may have a higher id than version 3."""
    settings.RELAY_BATCH = 2
    add(("a", 3), ("b", 1), ("a", 4), ("a", 1), ("b", 2), ("a", 2))
    drain(start_relay())
    assert versions(topic) == {"a": [1, 2, 3, 4], "b": [1, 2]}
    assert len(on_topic(topic)) == 6


def test_any_order_of_ids_and_any_batch(start_relay, topic, settings):
    chance = random.Random(5)
    rows = [(f"s{subject}", version) for subject in range(8) for version in range(1, 9)]
    one = start_relay()
    for size in (1, 3, 7, 1000):
        settings.RELAY_BATCH = size
        chance.shuffle(rows)
        add(*((f"{size}-{subject}", version) for subject, version in rows))
        drain(one, 100)
    arrived = versions(topic)
    assert len(arrived) == 32
    assert set(map(tuple, arrived.values())) == {tuple(range(1, 9))}


def test_later_versions_whose_earlier_ones_came_after_them_all_do_not_starve(start_relay, topic, settings):
    settings.RELAY_BATCH = 10
    add(*((f"s{number}", 2) for number in range(40)), *((f"s{number}", 1) for number in range(40)))
    assert drain(start_relay()) == 8
    assert set(map(tuple, versions(topic).values())) == {(1, 2)}


def test_a_held_row_stops_its_subject_and_nothing_else(start_relay, topic):
    held, *_ = add(("a", 3), ("a", 4), ("b", 1), ("a", 1), ("a", 2), ("log", None))
    hold(held)
    one = start_relay()
    drain(one)
    assert sorted(versions(topic).items()) == [("a", [1, 2]), ("b", [1]), ("log", [None])]
    assert unpublished() == [("a", 4)]
    OutboxEvent.objects.filter(pk=held).update(held_at=None, held_reason=None)
    drain(one)
    assert versions(topic)["a"] == [1, 2, 3, 4]


def test_ten_thousand_versions_behind_a_held_row_starve_nobody(start_relay, topic, settings):
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
    assert drain(start_relay()) == 2
    assert len(versions(topic)) == 20


# The window


@pytest.mark.parametrize("embedded", [True, False])
def test_at_most_the_window_is_published_and_not_recorded(start_relay, settings, embedded, monkeypatch):
    monkeypatch.setattr(kafka, "is_mock_cluster", lambda cluster_id: embedded)
    settings.RELAY_WINDOW, settings.RELAY_BATCH = 5, 4
    add(*((f"s{number}", 1) for number in range(12)))
    one = start_relay()
    drain(one)
    assert len(unpublished()) == 7
    time.sleep(0.1)
    assert not one.step()
    recorded = OutboxEvent.objects.exclude(published_at=None).values_list("pk", flat=True)[:3]
    OutboxEvent.objects.filter(pk__in=list(recorded)).delete()
    until(lambda: one.step() and len(unpublished()) == 4)
    drain(one)
    assert len(unpublished()) == 4


def test_the_window_counts_what_an_earlier_relay_published(start_relay, settings):
    settings.RELAY_WINDOW, settings.RELAY_BATCH = 5, 2
    add(*((f"s{number}", 1) for number in range(12)))
    first = start_relay()
    drain(first)
    first.close()
    drain(start_relay())
    assert len(unpublished()) == 7


def test_the_embedded_broker_gets_no_more_unread_bytes_than_it_keeps(start_relay, wipeable_broker, settings):
    add(*((f"s{number}", 1) for number in range(12)), size=800_000)
    drain(start_relay())
    total = sum(len(message.value()) for message in on_topic(settings.KAFKA_TOPIC))
    assert 3_000_000 < total <= 4_000_000


def test_a_batch_is_bounded_in_bytes(start_relay, monkeypatch):
    monkeypatch.setattr(relay_queue, "BATCH_BYTES", 50_000)
    add(("big", 1), size=100_000)
    add(*((f"s{number}", 1) for number in range(6)), size=20_000)
    one = start_relay()
    assert drain(one) == 4


def test_marking_reads_the_rows_it_marks_and_not_the_outbox(start_relay):
    """Also with statistics of an empty table, as after an idle night."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks_outbox")
        cursor.execute(
            "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload) "
            "SELECT id, 'task', n, 1, convert_to(json_build_object('id', id, 'x', repeat('x', 700))::text, 'UTF8') "
            "FROM (SELECT uuidv7() AS id, n FROM generate_series(1, 50000) n) made"
        )
        cursor.execute("SELECT id FROM tasks_outbox ORDER BY id LIMIT 1000")
        ids = [row_id for (row_id,) in cursor]
        parameters = {"ids": relay_queue._array(ids), "attempts": relay_queue._array([0] * len(ids))}
        cursor.execute("SET plan_cache_mode = force_custom_plan")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {relay_queue._MARK}", parameters)
        plan = str(cursor.fetchone()[0])
    assert "'Relation Name': 'tasks_outbox'" in plan
    assert "Seq Scan" not in plan
    assert start_relay()._queue.mark(dict.fromkeys(ids, 0)) == set()
    assert OutboxEvent.objects.filter(published_at=None).count() == 49_000


def test_it_looks_back_no_further_than_what_lives(start_relay, monkeypatch):
    monkeypatch.setattr(horizon, "INTERVAL", 0.0)
    ids = add(("a", 1), ("b", 1))
    one = start_relay()
    drain(one)
    OutboxEvent.objects.all().delete()
    (last,) = add(("c", 1))
    one.step()
    one.step()
    assert one._horizon.above >= ids[-1]
    assert one._queue._horizon is one._horizon is one._losses._horizon
    assert OutboxEvent.objects.get(pk=last).published_at
