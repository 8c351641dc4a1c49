"""PostgreSQL stops, crashes or hangs under the running roles: nobody waits for it for long, nothing is half done or lost,
and everything goes on by itself."""

import itertools
import json
import subprocess
import sys
import time

import pytest
from django.db import OperationalError, connection

from audit.models import Entry
from tasks.models import OutboxEvent, Task
from tests.api_client import api
from tests.recording import assert_log_is_whole
from tests.running_up import ROOT, wait_until
from tests.web_role import Clients, request, web_role
from tests.worker_role import worker_role


@pytest.fixture
def program(own_postgres):
    return api("member")


def traffic(program):
    key = program.create()["id"]
    kinds = [request("GET", f"/api/tasks/{key}", program.headers), request("POST", "/api/tasks", program.headers, {"title": "new"})]
    return itertools.cycle(kinds).__next__


def test_a_database_that_stops_or_crashes_is_a_503_at_once_and_comes_back_by_itself(own_postgres, program, tmp_path):
    with web_role(tmp_path) as web:
        wait_until(lambda: len(web.workers()) == 2, 10, "both workers run")
        workers = {worker.pid for worker in web.workers()}
        with Clients(web.port, traffic(program), 12, pause=0.02).running() as found:
            for end in (own_postgres.stop, own_postgres.crash):
                end()
                began = time.monotonic()
                status, headers, body = web.call("GET", "/api/tasks", headers=program.headers)
                assert (status, headers["Content-Type"], json.loads(body)["status"]) == (503, "application/problem+json", 503)
                assert headers["Retry-After"]
                assert time.monotonic() - began < 2
                assert (web.status("/healthz"), web.status("/readyz")) == (200, 503)
                time.sleep(1)
                own_postgres.start()
                wait_until(lambda: web.status("/readyz") == 200, 5, "it is ready again")
                answered = len(found.answers)
                wait_until(lambda seen=answered: {s for s, _, _ in found.answers[seen:]} >= {200, 201}, 5, "it serves again")
        assert {worker.pid for worker in web.workers()} == workers
    assert found.failed == []
    assert set(found.statuses()) == {200, 201, 503}
    assert found.seconds(503, 0.99) < 3
    assert_nothing_is_half_done(found.statuses()[201])


def test_a_database_that_hangs_is_a_503_in_time_and_comes_back_by_itself(own_postgres, program, tmp_path):
    """Four clients and sixteen threads: none waits for a thread, each for PostgreSQL."""
    with (
        web_role(tmp_path, TASKPULSE_WEB_STATEMENT_TIMEOUT_MS="1000") as web,
        Clients(web.port, traffic(program), 4, pause=0.02).running() as found,
    ):
        time.sleep(1)
        own_postgres.freeze()
        wait_until(lambda: found.statuses().get(503, 0) >= 4, 9, "each was told that it cannot be used")
        assert web.status("/healthz", 2) == 200
        own_postgres.thaw()
        wait_until(lambda: web.status("/readyz") == 200, 10, "it is ready again")
        seen = len(found.answers)
        wait_until(lambda: {status for status, _, _ in found.answers[seen:]} >= {200, 201}, 10, "it serves again")
    assert found.failed == []
    assert set(found.statuses()) == {200, 201, 503}
    assert max(seconds for status, seconds, _ in found.answers if status == 503) < 9
    assert_nothing_is_half_done(found.statuses()[201])


def assert_nothing_is_half_done(acknowledged: int) -> None:
    """Each acknowledged task is there, each that is there has its event; a commit whose answer was lost may be there too."""
    connection.close()
    made = Task.objects.filter(title="new")
    assert made.count() >= acknowledged
    assert OutboxEvent.objects.count() == Task.objects.count()


def test_relay_and_consumer_go_on_by_themselves_and_lose_nothing(own_postgres, program, topic, tmp_path):
    commands = (["relay_outbox"], ["consume_events"])
    logs = [(tmp_path / f"{command[0]}.log").open("w") for command in commands]
    roles = [
        subprocess.Popen([sys.executable, "manage.py", *command], cwd=ROOT, stdout=log, stderr=log)
        for command, log in zip(commands, logs, strict=True)
    ]
    try:
        made = write_until_recorded()
        for fault in (own_postgres.stop, own_postgres.crash, own_postgres.freeze):
            made += write(200)
            fault()
            time.sleep(1.5)
            own_postgres.thaw() if fault == own_postgres.freeze else own_postgres.start()
            connection.close()
            made += write_until_recorded()
        assert Entry.objects.count() == made
        assert assert_log_is_whole() == made
        assert [role.poll() for role in roles] == [None, None], "a role ended"
    finally:
        for role, log in zip(roles, logs, strict=True):
            role.terminate()
            role.wait(25)
            log.close()


def test_relay_and_consumer_stop_within_25_seconds_beside_a_database_that_hangs(own_postgres, program, topic, tmp_path):
    with worker_role("relay", tmp_path) as relay, worker_role("consumer", tmp_path) as consumer:
        made = write_until_recorded() + write(200)
        own_postgres.freeze()
        time.sleep(1)
        for role in (relay, consumer):
            role.process.terminate()
        began = time.monotonic()
        for role in (relay, consumer):
            role.process.wait(25)
        assert time.monotonic() - began < 25
        own_postgres.thaw()
    connection.close()
    with worker_role("relay", tmp_path), worker_role("consumer", tmp_path):
        made += write_until_recorded()
    assert assert_log_is_whole() == Entry.objects.count() == made


def write(count: int) -> int:
    for number in range(count):
        Task.objects.create(title=f"task {number}")
    return count


def write_until_recorded() -> int:
    made = write(50)

    def is_recorded() -> bool:
        try:
            return not OutboxEvent.objects.exists()
        except OperationalError:
            connection.close()
            return False

    wait_until(is_recorded, 30, "every change is in the log")
    return made
