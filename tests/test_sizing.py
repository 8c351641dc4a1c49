"""deploy/README.md on what grows and how many connections there are, held against tables and sessions that there are."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection

from audit.signed_note import SigningKey
from taskpulse.database_roles import TABLES
from tests.api_client import api
from tests.consuming import until
from tests.recording import task_with_versions, waiting
from tests.running_up import ROOT
from tests.web_role import web_role
from tests.worker_role import worker_role

README = (ROOT / "deploy/README.md").read_text()
# What grows with migrations and models alone.
OF_THE_CODE = {"auth_permission", "django_content_type", "django_migrations"}


@pytest.mark.parametrize("table", sorted(TABLES.keys() - OF_THE_CODE))
def test_each_table_is_among_what_grows(table):
    section = README.partition("## What grows")[2].partition("\n## ")[0]
    grows = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| "))
    assert f"`{table}`" in grows or (table.startswith("auth_") and "`auth_…`" in grows)


def sessions() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'")
        return {pid for (pid,) in cursor.fetchall()}


def most(before: set[int], ask) -> int:
    """The greatest number of sessions beside those before, while something is asked."""
    found, over = [0], threading.Event()
    asking = threading.Thread(target=lambda: (ask(), over.set()))
    asking.start()
    while not over.is_set():
        found.append(len(sessions() - before))
    asking.join()
    return max(found)


def told(pattern: str) -> tuple[int, ...]:
    (found,) = re.findall(pattern, README)
    return tuple(map(int, found if isinstance(found, tuple) else (found,)))


def test_relay_and_consumer_hold_as_many_connections_as_is_said(committed_db, topic, tmp_path):
    relay_holds, consumer_holds, more = told(
        r"(\d) for each relay \(two of them hold locks\) and 1 for each witness, (\d) for each consumer; "
        r"relay and consumer (\d) more while"
    )
    key = SigningKey.generate("taskpulse/audit").secret()
    before = sessions()
    with worker_role("relay", tmp_path, AUDIT_SIGNING_KEY=key, TASKPULSE_CHECKPOINT_SECONDS="1") as relay:
        until(lambda: relay.metrics()["taskpulse_relay_active"] == 1 and len(sessions() - before) >= relay_holds, "it works")
        assert most(before, lambda: [relay.readiness() for _ in range(3)]) <= relay_holds + more
        until(lambda: len(sessions() - before) == relay_holds, "what it holds")
        before = sessions()
        with worker_role("consumer", tmp_path) as consumer:
            task_with_versions(2)
            until(lambda: not waiting(), "recorded")
            until(lambda: len(sessions() - before) == consumer_holds, "what it holds")
            assert most(before, lambda: [consumer.readiness() for _ in range(3)]) <= consumer_holds + more


def test_a_web_process_holds_as_many_connections_as_is_said(committed_db, tmp_path):
    (holds,) = told(r"\| (\d+) for each web process \(8 turns, 8 threads, and readiness\)")
    assert (holds,) == told(r"Each web process\s+holds at most (\d+) connections")
    program = api("member")
    paths = ["/api/tasks", f"/api/tasks/{program.create()['id']}"]
    with (
        web_role(tmp_path, WEB_CONCURRENCY="1") as web,
        psycopg.connect(committed_db) as other,
        ThreadPoolExecutor(2 * 20) as clients,
    ):
        before = sessions() - {own for (own,) in other.execute("SELECT pg_backend_pid()")}
        other.execute("LOCK TABLE tasks_task IN ACCESS EXCLUSIVE MODE")
        asked = [clients.submit(web.call, "GET", path, None, program.headers) for path in paths * 20]
        until(lambda: len(sessions() - before) == holds, "as many wait as may, and readiness and the lock have one each")
        assert web.status("/readyz") == 200
        time.sleep(0.3)
        assert len(sessions() - before) == holds + 1
        other.rollback()
        assert {one.result()[0] for one in asked} <= {200, 503}
