"""More load than the web role can serve: what it takes is answered in time, the rest is refused at once."""

import itertools
import json
import time

import psycopg
import pytest

from tests.api_client import api
from tests.running_up import wait_until
from tests.web_role import Clients, make_creations_slow, one_answer, request, web_role


@pytest.fixture
def slow_creation(committed_db):
    """Each task takes 50 ms to create, without a processor: eight turns create about 150 a second."""
    make_creations_slow(committed_db, 0.05)


def probe_until(probes: list, web, seconds: float) -> None:
    paths, end = itertools.cycle(["/healthz", "/readyz", "/metrics"]), time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        probes.append((web.status(next(paths)), time.monotonic() - began))
        time.sleep(0.1)


def test_with_many_times_its_load_it_answers_in_time_or_refuses_at_once(slow_creation, tmp_path):
    """300 clients at once and 8 turns: without a bound each would wait two seconds, probes too."""
    member = api("member").headers
    create = request("POST", "/api/tasks", member, {"title": "one of many"})
    with web_role(tmp_path, WEB_CONCURRENCY="1", TASKPULSE_WEB_QUEUE_MS="300") as web:
        probes = []
        found = Clients(web.port, lambda: create, 300, pause=0.1).run(3, lambda: probe_until(probes, web, 3))
        assert not found.failed
        assert set(found.statuses()) == {201, 503}
        # As many as without an overload, more or less, and in time.
        assert found.statuses()[201] > 150
        assert found.seconds(201, 0.9) < 1.5
        assert found.seconds(503, 0.5) < 0.3
        refusals = [headers for status, _, headers in found.answers if status == 503]
        assert {headers["content-type"] for headers in refusals} == {"application/problem+json"}
        assert {headers["retry-after"] for headers in refusals} == {"1", "2", "3"}
        assert {status for status, _ in probes} == {200}
        assert sorted(seconds for _, seconds in probes)[len(probes) // 2] < 0.3
        # And over it is over.
        wait_until(lambda: web.call("POST", "/api/tasks", {"title": "after it"}, member)[0] == 201, 5, "it recovered")
        wait_until(lambda: "the overload is over" in web.log, 10, "the log says so")
        assert f"taskpulse_web_refused_total {len(refusals):.1f}" in web.call("GET", "/metrics")[2].decode()
    assert web.log.count("WARNING gunicorn.error: overload:") == 1, web.log


def test_a_refused_read_keeps_its_connection_and_a_refused_write_does_not(committed_db, tmp_path):
    """What follows a body is anybody's guess; after a GET without one the connection is as good as before."""
    program = api("member")
    key = program.create()["id"]
    change = request("PATCH", f"/api/tasks/{key}", program.headers, {"title": "second"})
    read = request("GET", f"/api/tasks/{key}", program.headers)
    with (
        # The time for a lock counts twice, for a waiter's turn and for the row: the one for a statement is not to come first.
        web_role(
            tmp_path,
            WEB_CONCURRENCY="1",
            TASKPULSE_WEB_QUEUE_MS="50",
            TASKPULSE_WEB_LOCK_TIMEOUT_MS="2500",
            TASKPULSE_WEB_STATEMENT_TIMEOUT_MS="20000",
        ) as web,
        psycopg.connect(committed_db) as session,
    ):
        session.execute("SELECT FROM tasks_task WHERE id = %s FOR UPDATE", [key])
        stuck = [web.connect(change) for _ in range(8)]
        time.sleep(0.5)
        waiting = web.connect(change)  # too early to be refused at once: it is when it has waited too long
        kept, closed, head = web.connect(read), web.connect(change), web.connect(read.replace(b"GET", b"HEAD", 1))
        for connection in (waiting, closed):
            status, headers, body = one_answer(connection)
            assert (status, headers["connection"], json.loads(body)["status"]) == (503, "close", 503)
            assert connection.recv(1) == b""
        assert head.recv(4_096).endswith(b"\r\n\r\n")
        assert one_answer(kept)[1]["connection"] == "keep-alive"
        assert web.status("/healthz", 1) == web.status("/readyz", 1) == 200
        # The lock's time is over: a problem for each, and the kept connection serves.
        for connection in stuck:
            status, headers, body = one_answer(connection)
            assert (status, headers["content-type"], "retry-after" in headers) == (503, "application/problem+json", True)
            assert "Somebody else is changing the same task" in json.loads(body)["detail"]
        kept.sendall(read)
        assert one_answer(kept)[0] == 200


def test_a_statement_that_takes_too_long_is_a_problem_and_changes_nothing(slow_creation, tmp_path):
    member = api("member").headers
    with web_role(tmp_path, WEB_CONCURRENCY="1", TASKPULSE_WEB_STATEMENT_TIMEOUT_MS="30") as web:
        status, headers, body = web.call("POST", "/api/tasks", {"title": "slow"}, member)
        assert (status, headers["Content-Type"]) == (503, "application/problem+json")
        assert headers["Retry-After"]
        assert "took too long" in json.loads(body)["detail"]
        status, _, body = web.call("GET", "/api/tasks", headers=member)
        assert (status, body) == (200, b"[]")


def test_a_few_long_requests_are_no_overload(slow_creation, tmp_path):
    """Who waits for the audit log holds a thread for a second, who exports it for longer: what comes after is served."""
    program = api("admin")
    key = program.create()["id"]
    create = request("POST", "/api/tasks", program.headers, {"title": "one of a few"})
    with web_role(tmp_path, WEB_CONCURRENCY="1", TASKPULSE_WEB_QUEUE_MS="300") as web:
        for _ in range(6):  # no relay and no consumer: each waits as long as it may
            began = time.monotonic()
            status, _, _ = web.call("GET", f"/api/tasks/{key}/audited", headers={**program.headers, "Prefer": "wait=1"})
            assert (status, time.monotonic() - began > 0.9) == (200, True)
        # Eight at once, three times, 50 ms each.
        answers = [one_answer(connection)[0] for connection in [web.connect(create) for _ in range(24)]]
        assert answers == [201] * 24
