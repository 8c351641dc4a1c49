"""Retries against the running web role: however many come, and whatever is killed, each request is done once."""

import signal
from contextlib import suppress

import psutil
import pytest

from tasks.models import KeptAnswer, OutboxEvent, Task
from tests.api_client import api
from tests.retrying import assert_each_was_done_once, creations, send_all
from tests.running_up import wait_until
from tests.web_role import web_role


@pytest.fixture
def program(committed_db):
    return api("member")


def test_a_thousand_retries_by_25_clients_make_one_task_and_killed_workers_none_too_many(program, tmp_path):
    with web_role(tmp_path) as web:
        wait_until(lambda: len(web.workers()) == 2, 10, "both workers run")
        (one,) = creations(program.headers, 1)
        answers, _ = send_all(web.port, [one] * 1_000, clients=25)
        assert {status for status, _, _ in answers} == {201}
        assert len({(body, headers["etag"], headers["location"]) for _, headers, body in answers}) == 1
        assert sum("idempotent-replayed" not in headers for _, headers, _ in answers) == 1
        assert Task.objects.count() == OutboxEvent.objects.count() == KeptAnswer.objects.count() == 1

        def kill(done) -> None:
            for share in (20, 70):
                wait_until(lambda least=share: done() >= least, 60, f"{share} are answered")
                with suppress(psutil.NoSuchProcess):
                    web.workers()[0].send_signal(signal.SIGKILL)

        requests = creations(program.headers, 120)
        answers, retries = send_all(web.port, requests, 8, kill)
        again, _ = send_all(web.port, requests, 4)
    assert retries > 0
    assert_each_was_done_once(answers, again)
