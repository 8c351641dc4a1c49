"""Retries while web workers, PostgreSQL's sessions and PostgreSQL itself are killed: each request is done once."""

import random
import signal
import time
from contextlib import suppress

import psutil
import pytest
from django.db import connection

from tests.api_client import api
from tests.retrying import assert_each_was_done_once, creations, send_all
from tests.running_up import wait_until
from tests.web_role import web_role

REQUESTS, SECONDS = 4_000, 40


@pytest.fixture
def program(own_postgres):
    return api("member")


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
        while done() < 2 * REQUESTS * 0.9 and time.monotonic() < end:
            time.sleep(random.uniform(0.5, 2))
            fault = random.choice(list(faults))
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
