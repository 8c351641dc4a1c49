"""Loss detection: what was lost on the way goes out again, and what merely waits does not."""

import concurrent.futures
import dataclasses
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from taskpulse import kafka, observation
from taskpulse.observation import Observation, Observer
from tasks import barrier
from tasks.barrier import Barrier, LossDetector, Verdict, decide

EVERYTHING = 2**62


def observe(highs, commits=None, lows=None, cluster="c1", topic_id="t1") -> Observation:
    highs = dict(enumerate(highs))
    return Observation(cluster, topic_id, lows or dict.fromkeys(highs, 0), highs, commits or {})


MARK = observe([10, 0])


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        pytest.param(observe([10, 0], {0: 10}), Verdict.PASSED, id="the commit has reached the mark, the other partition is empty"),
        pytest.param(observe([90, 7], {0: 10}), Verdict.PASSED, id="what came after the mark does not count"),
        pytest.param(observe([10, 0], {0: 9}), Verdict.WAIT, id="one message behind"),
        pytest.param(observe([10, 0]), Verdict.WAIT, id="never committed"),
        pytest.param(observe([10, 0], {1: 0}), Verdict.WAIT, id="committed on the empty partition alone"),
        pytest.param(observe([12, 0], {0: 3}, {0: 10, 1: 0}), Verdict.PASSED, id="expired: the low watermark has reached the mark"),
        pytest.param(observe([12, 0], {0: 3}, {0: 9, 1: 0}), Verdict.WAIT, id="expired but for one message"),
        pytest.param(observe([9, 0], {0: 9}), Verdict.VOID, id="the mark is above the high watermark"),
        pytest.param(observe([10, 0], {0: 10}, cluster="c2"), Verdict.VOID, id="another cluster"),
        pytest.param(observe([10, 0], {0: 10}, topic_id="t2"), Verdict.VOID, id="the topic was made anew"),
        pytest.param(observe([10, 0], {0: 10}, topic_id=None), Verdict.PASSED, id="the topic's id is not known"),
        pytest.param(observe([10], {0: 10}), Verdict.VOID, id="a partition vanished"),
        pytest.param(observe([10, 0, 0], {0: 10}), Verdict.VOID, id="a partition was added, which has no mark"),
        pytest.param(observe([12, 0], {0: 1000}), Verdict.WAIT, id="a commit of an earlier life, above the high watermark"),
    ],
)
def test_decision(now, verdict):
    assert decide(MARK, now) is verdict


@dataclasses.dataclass
class Log:
    """A model of one topic: what was appended, read and dropped, by partition; `life` counts its new beginnings."""

    ends: list[int]
    reads: list[int]
    lows: list[int]
    life: int = 0

    def observe(self, with_topic_id: bool) -> Observation:
        commits = {number: offset for number, offset in enumerate(self.reads) if offset}
        return Observation(
            "c", str(self.life) if with_topic_id else None, dict(enumerate(self.lows)), dict(enumerate(self.ends)), commits
        )


_STEP = st.tuples(st.sampled_from(["append", "read", "expire", "wipe", "grow"]), st.integers(0, 2), st.integers(1, 6))


@given(st.lists(_STEP, max_size=12), st.lists(_STEP, max_size=12))
def test_passed_means_that_nothing_below_the_mark_is_still_to_be_read(before, after):
    log = Log([0, 0], [0, 0], [0, 0])
    for step in before:
        _apply(log, *step)
    mark, life, ends = log.observe(True), log.life, list(log.ends)
    for step in after:
        _apply(log, *step)
    verdict = decide(mark, log.observe(True))
    same = life == log.life and len(ends) == len(log.ends)
    assert (verdict is Verdict.VOID) == (not same)
    if same:
        unread = any(max(read, low) < end for read, low, end in zip(log.reads, log.lows, ends, strict=True))
        assert verdict is (Verdict.WAIT if unread else Verdict.PASSED)


@given(st.lists(_STEP, max_size=12), st.lists(_STEP, max_size=12))
def test_once_all_is_read_the_barrier_never_waits(before, after):
    log = Log([0, 0], [0, 0], [0, 0])
    for step in before:
        _apply(log, *step)
    mark = log.observe(False)
    for step in after:
        _apply(log, *step)
    log.reads = list(log.ends)
    assert decide(mark, log.observe(False)) is not Verdict.WAIT


def _apply(log: Log, action: str, partition: int, count: int) -> None:
    partition %= len(log.ends)
    if action == "append":
        log.ends[partition] += count
    elif action == "read":
        log.reads[partition] = min(max(log.reads[partition], log.lows[partition]) + count, log.ends[partition])
    elif action == "expire":
        log.lows[partition] = min(log.lows[partition] + count, log.ends[partition])
    elif action == "wipe":
        log.ends, log.reads, log.lows = ([0] * len(log.ends) for _ in range(3))
        log.life += 1
    else:
        log.ends, log.reads, log.lows = [*log.ends, 0], [*log.reads, 0], [*log.lows, 0]


def test_the_barrier_begins_anew_when_void_and_when_passed():
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(6)]
    gate = Barrier()
    assert gate.advance(moments[0], observe([10])) is None
    assert gate.advance(moments[1], observe([10], cluster="c2")) is None  # void: the marks are those of moment 1 now
    assert gate.advance(moments[2], observe([10], cluster="c2")) is None  # behind: they stay
    assert gate.advance(moments[3], observe([11], {0: 10}, cluster="c2")) == moments[1]
    assert gate.advance(moments[4], observe([11], {0: 10}, cluster="c2")) is None
    assert gate.advance(moments[5], observe([11], {0: 11}, cluster="c2")) == moments[3]


# With PostgreSQL and a broker.


@pytest.fixture
def quick(monkeypatch):
    """Looks at every step, and takes every published row for old enough."""
    monkeypatch.setattr(barrier, "INTERVAL", 0.0)


@pytest.fixture
def detector(committed_db, topic, settings, quick):
    detector = LossDetector(topic, settings.KAFKA_AUDIT_GROUP)
    yield detector
    detector.close()


def looks(detector: LossDetector, count: int = 2) -> int:
    """Lets the detector observe the broker `count` times; returns how many rows it sent back."""
    total = 0
    for _ in range(count):
        total += detector.step(EVERYTHING)
        if detector._future is not None:
            concurrent.futures.wait([detector._future], 20)
        total += detector.step(EVERYTHING)
    return total


def publish(topic: str, count: int = 1, partition: int = 0, size: int = 10) -> list[str]:
    """Rows that are published and acknowledged, as the relay leaves them."""
    producer = Producer(kafka.producer_settings())
    keys = [add_published() for _ in range(count)]
    for key in keys:
        producer.produce(topic, b"x" * size, key.encode(), partition)
    assert producer.flush(10) == 0
    execute("UPDATE tasks_outbox SET published_at = clock_timestamp() WHERE subject_id = ANY (%s)", [keys])
    return keys


def add_published(age: float = 0, attempts: int = 1, held: bool = False) -> str:
    event_id, key = uuid.uuid4(), str(uuid.uuid4())
    execute(
        "INSERT INTO tasks_outbox "
        "(event_id, subject_type, subject_id, version, payload, attempts, published_at, held_at, held_reason) "
        "VALUES (%s, 'task', %s, 1, %s, %s, clock_timestamp() - make_interval(secs => %s), %s, %s)",
        [
            event_id,
            key,
            json.dumps({"id": str(event_id)}).encode(),
            attempts,
            age,
            datetime.now(UTC) if held else None,
            "x" if held else None,
        ],
    )
    return key


def execute(statement: str, parameters=()) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def unpublished() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT subject_id FROM tasks_outbox WHERE published_at IS NULL")
        return {key for (key,) in cursor.fetchall()}


def commit(topic: str, group: str, offset: int, partition: int = 0) -> None:
    consumer = Consumer(kafka.consumer_settings(group))
    consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
    consumer.close()


def test_a_consumer_that_is_behind_causes_no_repeat(detector, topic, settings):
    publish(topic, 5)
    assert looks(detector, 4) == 0
    commit(topic, settings.KAFKA_AUDIT_GROUP, 4)
    assert looks(detector, 4) == 0
    assert unpublished() == set()


def test_what_was_read_and_not_recorded_goes_out_again(detector, topic, settings):
    keys = publish(topic, 3)
    assert looks(detector, 1) == 0
    commit(topic, settings.KAFKA_AUDIT_GROUP, 3)
    assert looks(detector, 1) == 3
    assert unpublished() == set(keys)


def test_a_lost_message_goes_out_again_past_empty_partitions(detector, topic):
    """The topic is empty: nothing that was published can still arrive."""
    publish(topic, 1)
    execute("DELETE FROM tasks_outbox")
    empty = f"{topic}-empty"
    kafka.ensure_topic(empty)
    other = LossDetector(empty, "nobody")
    lost = add_published(age=1)
    assert looks(other, 2) == 1
    assert unpublished() == {lost}
    other.close()


def test_a_held_row_stays(detector, topic):
    add_published(age=10, held=True)
    lost = add_published(age=10)
    assert looks(detector, 2) == 1
    assert unpublished() == {lost}


def test_a_row_published_between_the_instant_and_the_marks_stays(detector, topic, settings, monkeypatch):
    """T is read before the watermarks: what is published between the two lies below the marks and is not judged by them."""
    add_published(age=1)
    read, between = detector._observer.observe, []

    def publish_first():
        if not between:
            execute_in_thread = Producer(kafka.producer_settings())
            execute_in_thread.produce(topic, b"x", b"k", 0)
            execute_in_thread.flush(10)
            between.append(True)
        return read()

    monkeypatch.setattr(detector._observer, "observe", publish_first)
    detector.step(EVERYTHING)  # T
    late = add_published()
    looks(detector, 1)
    commit(topic, settings.KAFKA_AUDIT_GROUP, 1)
    assert looks(detector, 1) == 1
    assert late not in unpublished()


def test_a_wiped_broker_loses_nothing(committed_db, wipeable_broker, settings, quick):
    topic = settings.KAFKA_TOPIC
    detector = LossDetector(topic, "g")
    keys = publish(topic, 4)
    assert looks(detector, 2) == 0
    wipeable_broker.kill()
    wipeable_broker.start()
    looks(detector, 1)  # the old client fails, or finds another cluster
    detector._next = 0.0
    looks(detector, 3)
    assert unpublished() == set(keys)
    detector.close()


def test_what_the_broker_dropped_unread_goes_out_again(committed_db, wipeable_broker, settings, quick):
    """The embedded broker keeps some 5 MB a partition: the low watermark passes the mark, no commit ever does."""
    topic = settings.KAFKA_TOPIC
    detector = LossDetector(topic, "nobody")
    keys = publish(topic, 2)
    assert looks(detector, 2) == 0
    producer = Producer(kafka.producer_settings() | {"compression.type": "none"})
    for _ in range(12):
        producer.produce(topic, b"x" * 900_000, partition=0)
        assert producer.flush(10) == 0
    assert looks(detector, 1) == 2
    assert unpublished() == set(keys)
    detector.close()


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 0), (2, 1), (3, 2), (6, 16), (9, 60), (1_000_000, 60)])
def test_repeats_back_off_and_never_end(detector, attempts, seconds):
    add_published(age=seconds - 0.9 if seconds else -60, attempts=attempts)
    due = add_published(age=seconds + 5, attempts=attempts)
    assert looks(detector, 2) == 1
    assert unpublished() == {due}


def test_a_row_that_the_recorder_is_removing_is_left_alone(detector, committed_db):
    add_published(age=5)
    execute("SET lock_timeout = '2s'")  # rather a failure than a test that hangs
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM tasks_outbox")
        assert looks(detector, 2) == 0  # and does not wait either
        cursor.execute("COMMIT")
    other.close()


def test_no_published_row_no_request(detector, monkeypatch):
    monkeypatch.setattr(detector._observer, "observe", lambda: pytest.fail("asked the broker"))
    assert looks(detector, 2) == 0


def test_a_broker_that_does_not_answer_is_logged_once_and_never_waited_for(detector, monkeypatch, caplog):
    add_published(age=5)
    settings_of_nobody = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    with monkeypatch.context() as patch:
        patch.setattr(observation, "REQUEST_TIMEOUT", 0.2)
        patch.setattr(kafka, "admin_settings", lambda: settings_of_nobody)
        for _ in range(3):
            detector._next = 0.0
            assert looks(detector, 1) == 0
    detector._next = 0.0
    with caplog.at_level("INFO"):
        assert looks(detector, 2) == 1
    assert [record.getMessage()[:21] for record in caplog.records if "loss detection" in record.getMessage()] == [
        "loss detection failed",
        "loss detection works ",
    ]


def test_the_observer_reads_watermarks_commits_and_identity(topic, settings):
    producer = Producer(kafka.producer_settings())
    for _ in range(3):
        producer.produce(topic, b"x", partition=1)
    assert producer.flush(10) == 0
    commit(topic, settings.KAFKA_AUDIT_GROUP, 2, partition=1)
    seen = Observer(topic, settings.KAFKA_AUDIT_GROUP).observe()
    assert seen.cluster_id == producer.list_topics(topic, 5).cluster_id
    assert seen.highs.keys() == seen.lows.keys() >= {0, 1, 2, 3}
    assert (seen.lows[1], seen.highs[1], seen.highs[0]) == (0, 3, 0)
    assert seen.commits == {1: 2}
