"""A consumer with a name of its own (KAFKA_GROUP_INSTANCE_ID, KIP-345): its successor waits for nobody's session to end."""

import os
import signal
import time
import uuid

import pytest

from tests.consuming import WAIT, publish, steps_until, until
from tests.recording import assert_log_is_whole, task_with_versions, waiting
from tests.test_consume_events import process  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(
    not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), reason="KAFKA_BOOTSTRAP_SERVERS names no Apache Kafka"
)
# A broker waits 6 s for a member that does not answer (session.timeout.ms).
SESSION = 6


@pytest.fixture
def name(settings) -> str:
    settings.KAFKA_GROUP_INSTANCE_ID = f"consumer-{uuid.uuid4().hex[:8]}"
    return settings.KAFKA_GROUP_INSTANCE_ID


@pytest.fixture
def running(committed_db, topic, process, name):  # noqa: F811
    """A process of that name which has all partitions."""
    first = process(KAFKA_GROUP_INSTANCE_ID=name)
    task_with_versions(1)
    publish(waiting())
    until(lambda: not waiting(), "recorded")
    return first


def seconds_until_assigned(opened) -> float:
    started = time.monotonic()
    successor = opened()
    steps_until(successor, lambda: len(successor._member.client.assignment()) == 4, "the partitions")
    return time.monotonic() - started


def test_a_killed_process_is_succeeded_at_once_by_one_of_its_name(running, opened):
    running.kill()
    running.wait()
    assert seconds_until_assigned(opened) < SESSION - 2


def test_a_process_that_was_told_to_end_leaves_its_partitions_to_any_other(running, opened, settings):
    running.send_signal(signal.SIGTERM)
    assert running.wait(25) == 0
    settings.KAFKA_GROUP_INSTANCE_ID = "another"
    assert seconds_until_assigned(opened) < SESSION - 2


def test_a_second_process_of_a_name_ends_the_first_which_says_why(running, opened, name):
    successor = opened()
    steps_until(successor, lambda: len(successor._member.client.assignment()) == 4, "the partitions")
    _, err = running.communicate(timeout=WAIT)
    assert running.returncode == 1
    assert "KAFKA_GROUP_INSTANCE_ID must be another for each process; nothing is lost" in err.splitlines()[-1]
    assert name in err.splitlines()[-1]
    task_with_versions(3)
    publish(waiting())
    steps_until(successor, lambda: not waiting(), "recorded")
    assert assert_log_is_whole() == 4
