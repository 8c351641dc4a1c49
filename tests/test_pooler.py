"""Behind PgBouncer in transaction mode: web and consumer share two connections, relay and migrate have their own."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User

from audit.models import Entry
from tasks.models import ApiToken
from tests import pgbouncer
from tests.running_up import ROOT, free_port, wait_until

THREADS = 8


@pytest.fixture
def pooler(committed_db, tmp_path_factory):
    """Two connections are fewer than the web role has threads."""
    with pgbouncer.in_front_of(committed_db, tmp_path_factory.mktemp("pgbouncer")) as url:
        yield url


@pytest.fixture
def service(pooler, committed_db, topic, broker, settings):
    """The three roles; yields the address of the web role."""
    port = free_port()
    shared = os.environ | {
        "DATABASE_URL": pooler, "TASKPULSE_POOLER": "transaction", "KAFKA_BOOTSTRAP_SERVERS": broker, "KAFKA_TOPIC": topic,
        "KAFKA_AUDIT_GROUP": settings.KAFKA_AUDIT_GROUP, "WEB_CONCURRENCY": "1",
    }  # fmt: skip
    gunicorn = ["-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "taskpulse.wsgi"]
    roles = [
        (gunicorn, shared),
        (["manage.py", "consume_events"], shared),
        (["manage.py", "relay_outbox"], shared | {"DATABASE_DIRECT_URL": committed_db}),
    ]
    processes = [subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment) for arguments, environment in roles]
    try:
        wait_until(
            lambda: pgbouncer.listens(port) or any(process.poll() is not None for process in processes), 30, "the web role listens"
        )
        yield f"http://127.0.0.1:{port}"
        assert [process.poll() for process in processes] == [None] * 3, "a role ended"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def test_many_people_share_two_connections_and_each_is_named(service):
    tokens = {name: ApiToken.issue(User.objects.create_superuser(name), "test")[1] for name in ("ana", "bo", "cy", "dee")}
    ready = threading.Barrier(THREADS)

    def work(number: int) -> list[tuple[str, str]]:
        """Creates and changes tasks as one of them; returns (id, name)."""
        name, done = list(tokens)[number % len(tokens)], []
        ready.wait(20)
        for turn in range(4):
            task = _call(f"{service}/api/tasks", "POST", tokens[name], {"title": f"{name} {turn}"})
            _call(f"{service}/api/tasks/{task['id']}", "PATCH", tokens[name], {"priority": "high"})
            assert _call(f"{service}/api/tasks/{task['id']}", "GET", tokens[name])["version"] == 2
            done.append((task["id"], name))
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        done = [pair for part in pool.map(work, range(THREADS)) for pair in part]
    wait_until(lambda: Entry.objects.count() == 2 * len(done), 30, "every change is in the log")
    recorded = Entry.objects.order_by("seq").values_list("subject_id", "version", "actor_name")
    assert sorted(recorded) == sorted((task, version, name) for task, name in done for version in (1, 2))


def _call(url: str, method: str, token: str, body: dict | None = None) -> dict:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())
