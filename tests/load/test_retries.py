"""Retries by a thousand connections at once, and while web workers, PostgreSQL's sessions and PostgreSQL itself are killed: each
request is done once."""

import itertools
import random
import signal
import time
from contextlib import suppress

import psutil
import pytest
from django.db import connection

from tasks.models import KeptAnswer, OutboxEvent, Task
from tests.api_client import api
from tests.retrying import assert_each_was_done_once, creations, send_all, send_at_once
from tests.running_up import wait_until
from tests.web_role import web_role

REQUESTS, SECONDS = 4_000, 40


@pytest.fixture
def program(own_postgres):
    return api("member")


def test_a_thousand_connections_at_once_make_one_task(program, tmp_path):
    """The server refuses what it could not answer in time; who comes again when told is answered, and it is done once."""
    (one,) = creations(program.headers, 1)
    with web_role(tmp_path, TASKPULSE_WEB_QUEUE_MS="50") as web:
        wait_until(lambda: len(web.workers()) == 2, 10, "both workers run")
        answers, refusals = send_at_once(web.port, one, 1_000)
    connection.close()
    told = {status: sum(found == status for found, _ in refusals) for status in (409, 503)}
    print(f"{told[503]} refused by load, {told[409]} while the first was under way")
    assert told[503] > 0
    assert {status for status, _, _ in answers} == {201}
    assert len({(body, headers["etag"], headers["location"]) for _, headers, body in answers}) == 1
    assert sum("idempotent-replayed" not in headers for _, headers, _ in answers) == 1
    assert Task.objects.count() == OutboxEvent.objects.count() == KeptAnswer.objects.count() == 1


def test_whatever_is_killed_each_request_is_done_once(own_postgres, program, tmp_path):
    """Two clients share each key, so that most requests have one beside them that is the same."""

    def kill_worker(web) -> None:
        web.workers()[0].send_signal(signal.SIGKILL)

    def kill_session(web) -> None:
        """PostgreSQL ends all sessions when one dies so, and recovers from its log."""
        sessions = psutil.Process(own_postgres.process.pid).children()
        of_web = [session for session in sessions if "taskpulse [local]" in " ".join(session.cmdline())]
        random.choice(of_web).send_signal(signal.SIGKILL)

    def crash(web) -> None:
        own_postgres.crash()
        own_postgres.start()

    faults = {kill_worker: 0, kill_session: 0, crash: 0}

    def meanwhile(done) -> None:
        end = time.monotonic() + SECONDS
        in_turn = itertools.cycle(random.sample(list(faults), len(faults)))
        while done() < 2 * REQUESTS * 0.9 and time.monotonic() < end:
            time.sleep(random.uniform(0.5, 2))
            fault = next(in_turn)
            with suppress(psutil.NoSuchProcess, IndexError):
                fault(web)
                faults[fault] += 1

    with web_role(tmp_path) as web:
        wait_until(lambda: len(web.workers()) == 2, 10, "both workers run")
        requests = [one for one in creations(program.headers, REQUESTS) for _ in range(2)]
        answers, retries = send_all(web.port, requests, 12, meanwhile)
        wait_until(lambda: web.status("/readyz") == 200, 30, "it is ready again")
        again, _ = send_all(web.port, requests[::2], 4)
    connection.close()
    print(f"{retries} retries, " + ", ".join(f"{fault.__name__} {count}" for fault, count in faults.items()))
    assert min(faults.values()) > 0
    assert [body for _, _, body in answers[::2]] == [body for _, _, body in answers[1::2]]
    assert_each_was_done_once(answers[::2], again)
