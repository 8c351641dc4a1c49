"""Web processes are replaced under load, and no client sees it: each request gets its answer, each write is made once.

The queue is long here: on a machine without room to spare, the processes that are left refuse what they cannot serve in
time, as in any overload (test_overload.py). What is tested is that the replacement itself loses and refuses nothing.
"""

import itertools
import signal
import time

import pytest

from tasks.models import OutboxEvent, Task
from tests.api_client import api
from tests.load.balancer import Balancer
from tests.running_up import free_port, wait_until
from tests.web_role import Answers, Clients, WebRole, request, web_role

_CLIENTS, _PAUSE = 24, 0.02
_LONG_QUEUE = {"TASKPULSE_WEB_QUEUE_MS": "20000"}


@pytest.fixture
def traffic(committed_db):
    """The next request: three reads, then a write."""
    program = api("member")
    key = program.create()["id"]
    kinds = [request("GET", f"/api/tasks/{key}", program.headers), request("GET", "/api/tasks", program.headers)]
    kinds += [kinds[0], request("POST", "/api/tasks", program.headers, {"title": "while it rolls"})]
    return itertools.cycle(kinds).__next__


def assert_nobody_noticed(found: Answers) -> None:
    assert found.failed == []
    statuses = found.statuses()
    assert set(statuses) == {200, 201}
    assert sum(statuses.values()) > 200
    # One answer, one task: nothing was lost after it was told, or made twice.
    assert Task.objects.filter(title="while it rolls").count() == statuses[201]
    assert OutboxEvent.objects.count() == statuses[201] + 1


def replaced(web: WebRole, before: set[int], count: int) -> bool:
    now = {worker.pid for worker in web.workers()}
    return not now & before and len(now) == count


def test_reload_more_and_fewer_workers(traffic, tmp_path):
    with web_role(tmp_path, **_LONG_QUEUE) as web:

        def roll():
            for _ in range(2):
                before = {worker.pid for worker in web.workers()}
                web.signal(signal.SIGHUP)
                wait_until(lambda before=before: replaced(web, before, 2), 20, "a reload replaced both workers")
            web.signal(signal.SIGTTIN)
            wait_until(lambda: len(web.workers()) == 3, 10, "there is a third worker")
            web.signal(signal.SIGTTOU)
            wait_until(lambda: len(web.workers()) == 2, 20, "there are two again")
            # And one that somebody ends by hand.
            before = {worker.pid for worker in web.workers()}
            web.workers()[0].terminate()
            wait_until(lambda: len({w.pid for w in web.workers()} - before) == 1, 20, "it was replaced")
            time.sleep(0.5)

        assert_nobody_noticed(Clients(web.port, traffic, _CLIENTS, _PAUSE).run(1, roll))


def test_two_web_processes_are_replaced_one_after_the_other(traffic, tmp_path):
    """As a rolling update does it: the new one first, then SIGTERM to the old one, whose end nobody waits for."""
    ports = [free_port() for _ in range(4)]
    roles = [WebRole(tmp_path, port, WEB_CONCURRENCY="1", TASKPULSE_WEB_DRAIN_SECONDS="2", **_LONG_QUEUE) for port in ports]
    try:
        for role in roles[:2]:
            role.start()
        with Balancer(free_port(), ports) as balancer:
            wait_until(lambda: balancer.ready == ports[:2], 10, "both are ready")

            def roll():
                for old, new in zip(roles[:2], roles[2:], strict=True):
                    new.start()
                    wait_until(lambda new=new: new.port in balancer.ready, 10, "the new one is ready")
                    old.signal(signal.SIGTERM)
                    assert old.process.wait(20) == 0
                time.sleep(0.5)

            assert_nobody_noticed(Clients(balancer.port, traffic, _CLIENTS, _PAUSE).run(1, roll))
    finally:
        for role in roles:
            if role.process is not None:
                role.stop()


def test_sigterm_first_says_not_ready_and_goes_on_serving(traffic, tmp_path):
    with web_role(tmp_path, TASKPULSE_WEB_DRAIN_SECONDS="3") as web:
        idle = web.connect()
        web.signal(signal.SIGTERM)
        wait_until(lambda: web.status("/readyz") == 503, 2, "it is not ready")
        assert b"stopping" in web.call("GET", "/readyz")[2]
        assert web.status("/healthz") == 200
        assert "ERROR" not in web.log
        time.sleep(1.2)
        idle.sendall(traffic())
        answer = idle.recv(4_096)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in answer
        assert web.process.wait(20) == 0
        # Asked twice, it does not wait.
        web.start()
        began = time.monotonic()
        web.signal(signal.SIGTERM)
        time.sleep(0.2)
        web.signal(signal.SIGTERM)
        web.process.wait(20)
        assert time.monotonic() - began < 2.5
