"""Probes and metrics of relay and consumer, read over HTTP from real processes."""

import json
import os
import platform
import re
import socket
import subprocess
import sys
import uuid

import psycopg
import pytest
from confluent_kafka import Producer
from django.conf import settings as django_settings

from audit.checkpoint_workers import NO_KEY
from taskpulse import VERSION, kafka
from tests.consuming import publish, until
from tests.promtool import promtool
from tests.recording import task_with_versions, waiting
from tests.relaying import hold
from tests.running_up import ROOT
from tests.worker_role import get, worker_role


@pytest.fixture
def both(committed_db, topic, tmp_path):
    """A relay and a consumer that have taken three changes to the log, and a message that is no event to the dead letters."""
    with worker_role("relay", tmp_path, TASKPULSE_REVISION="4f2a9c1") as relay, worker_role("consumer", tmp_path) as consumer:
        task_with_versions(3)
        producer = Producer(kafka.producer_settings())
        producer.produce(topic, b"no event", "key", partition=2)
        assert producer.flush(30) == 0
        until(lambda: not waiting() and consumer.metrics().get('taskpulse_dead_letters_total{reason="malformed"}'), "recorded")
        yield relay, consumer


def test_both_roles_are_well_and_tell_what_they_did(both):
    relay, consumer = both
    for role in both:
        assert [role.status(path) for path in ("/healthz", "/health", "/healthz/", "/readyz", "/ready", "/metrics")] == [200] * 6
        ok = {"database": "ok", "migrations": "ok", "kafka": "ok"}
        of_relay = {"relay": "active", "outbox": "ok", "checkpointer": NO_KEY}
        assert role.readiness() == (200, ok | (of_relay if role is relay else {"consumer": "ok"}))
    nothing_left = {"taskpulse_outbox_pending": 0, **{f"taskpulse_consumer_lag{lag_of(number)}": 0 for number in range(4)}}
    for role in both:  # each looks for itself, once a second at most
        until(lambda role=role: nothing_left.items() <= role.metrics().items(), "a look after the last commit")
    expected = {
        "taskpulse_outbox_pending": 0, "taskpulse_outbox_oldest_age_seconds": 0, "taskpulse_outbox_held": 0,
        'taskpulse_dependency_up{dependency="postgresql"}': 1, 'taskpulse_dependency_up{dependency="migrations"}': 1,
        'taskpulse_dependency_up{dependency="kafka"}': 1, 'taskpulse_embedded{part="postgresql"}': 0,
        'taskpulse_embedded{part="kafka"}': not django_settings.KAFKA_BOOTSTRAP_SERVERS,
        **{f"taskpulse_consumer_lag{lag_of(number)}": 0 for number in range(4)},
    }  # fmt: skip
    of_relay = expected | {
        "taskpulse_relay_active": 1, "taskpulse_relay_published_total": 3, "taskpulse_relay_republished_total": 0,
        "taskpulse_relay_refused_total": 0, 'taskpulse_batch_events_sum{role="relay"}': 3,
        f'taskpulse_build_info{{python="{platform.python_version()}",revision="4f2a9c1",version="{VERSION}"}}': 1,
    }  # fmt: skip
    of_consumer = expected | {
        "taskpulse_recorder_recorded_total": 3, "taskpulse_recorder_held_total": 0, "taskpulse_commit_to_entry_seconds_count": 3,
        'taskpulse_dead_letters_total{reason="malformed"}': 1,
        "taskpulse_dead_letter_limit_bytes": 1e9,
        'taskpulse_batch_events_sum{role="consumer"}': 4,
    }  # fmt: skip
    for role, wanted in ((relay, of_relay), (consumer, of_consumer)):
        found = role.metrics()
        assert {name: found.get(name) for name in wanted} == wanted
        name = "relay" if role is relay else "consumer"
        assert found["taskpulse_dead_letter_bytes"] > 0
        assert found[f'taskpulse_batch_duration_seconds_sum{{role="{name}"}}'] > 0
    assert 0 < consumer.metrics()["taskpulse_commit_to_entry_seconds_sum"] < 3 * 60
    before = set(relay.metrics())
    assert {relay.status(f"/{uuid.uuid4()}") for _ in range(20)} == {404}
    assert set(relay.metrics()) == before, "what is asked for is no label"
    for role in both:
        promtool("check", "metrics", text=role.page())


def lag_of(partition: int) -> str:
    return f'{{group="{django_settings.KAFKA_AUDIT_GROUP}",partition="{partition}"}}'


def test_a_relay_without_a_broker_lives_and_says_what_is_missing(committed_db, tmp_path):
    task_with_versions(3)
    with worker_role("relay", tmp_path, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", TASKPULSE_STUCK_SECONDS="1") as relay:
        until(lambda: "outbox" in failed(relay), "it is not ready")
        status, checks = relay.readiness()
        assert (status, checks["database"], checks["migrations"]) == (503, "ok", "ok")
        assert re.fullmatch(r"3 changes are not in the audit log, the oldest unpublished one for \d+ s", checks["outbox"])
        assert checks["kafka"] not in ("", "ok")
        assert relay.status("/healthz") == 200
        found = relay.metrics()
        assert found["taskpulse_outbox_pending"] == 3
        assert found["taskpulse_outbox_oldest_age_seconds"] > 1
        assert found['taskpulse_dependency_up{dependency="kafka"}'] == 0
        assert found['taskpulse_dependency_up{dependency="postgresql"}'] == 1
        assert not [name for name in found if name.startswith("taskpulse_consumer_lag")]
        relay.process.terminate()
        assert relay.process.wait(25) == 0


def failed(role) -> set[str]:
    _, body = get(f"{role.url}/readyz")
    return {name for name, check in json.loads(body)["checks"].items() if check["status"] == "failed"}


def test_roles_without_a_database_live_and_say_what_is_missing(committed_db, topic, tmp_path):
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    with (
        worker_role("relay", tmp_path, DATABASE_URL=nowhere) as relay,
        worker_role("consumer", tmp_path, DATABASE_URL=nowhere) as consumer,
    ):
        for role in (relay, consumer):
            until(lambda role=role: failed(role) == {"database", "migrations"}, "it says so")
            status, checks = role.readiness()
            assert (status, checks["database"], checks["kafka"]) == (503, "cannot be reached", "ok")
            assert role.status("/healthz") == 200
            found = role.metrics()
            assert found['taskpulse_dependency_up{dependency="postgresql"}'] == 0
            assert found['taskpulse_dependency_up{dependency="kafka"}'] == 1
            assert "taskpulse_outbox_pending" not in found, "nobody knows"


def test_a_consumer_without_progress_is_not_ready_and_one_with_held_events_says_so(committed_db, topic, tmp_path):
    with worker_role("consumer", tmp_path, TASKPULSE_STUCK_SECONDS="1") as consumer:
        with psycopg.connect(committed_db) as session:
            session.execute("SELECT FROM audit_log FOR UPDATE")
            task_with_versions(2)
            publish(waiting())
            until(lambda: failed(consumer) == {"consumer"}, "it is not ready")
            status, checks = consumer.readiness()
            assert status == 503
            assert re.fullmatch(r"what it does now has taken \d+ s", checks["consumer"])
            assert consumer.status("/healthz") == 200, "a new process would wait for the same lock"
        until(lambda: not waiting() and consumer.status("/readyz") == 200, "it goes on")
        task_with_versions(1)
        hold(waiting()[0].pk)
        until(lambda: "held" in consumer.readiness()[1], "it says so")
        status, checks = consumer.readiness()
        assert (status, checks["held"]) == (200, "1 events are held: look at them in the console, mend the cause, release them")
        assert consumer.metrics()["taskpulse_outbox_held"] == 1


def test_a_port_in_use_is_named(committed_db):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "manage.py", "relay_outbox"], cwd=ROOT, env=os.environ | {"TASKPULSE_WORKER_PORT": port},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1] == (
            f"CommandError: cannot listen on port {port} of 0.0.0.0 (TASKPULSE_WORKER_PORT): it is in use"
        )
