"""Clients that are slow, silent or rude: none of them holds a thread of the web role for long, and each gets its answer."""

import re
import time

import pytest

from tests.api_client import api
from tests.web_role import everything, impatient_web_role, request


@pytest.fixture
def member(committed_db) -> dict:
    return api("member").headers


@pytest.fixture
def web(member, tmp_path):
    with impatient_web_role(tmp_path) as role:
        yield role


def seconds_of_a_read(web, member) -> float:
    began = time.monotonic()
    assert web.call("GET", "/api/tasks", headers=member)[0] == 200
    return time.monotonic() - began


def test_who_sends_slowly_holds_no_thread(web, member):
    read = request("GET", "/api/tasks", member)
    create = request("POST", "/api/tasks", member, {"title": "x", "description": "y" * 15_000})
    silent = [web.connect() for _ in range(20)]
    in_the_head = [web.connect(read[:30]) for _ in range(20)]
    in_the_body = [web.connect(create[:-20]) for _ in range(20)]
    # Twice eight would hold every thread twice, for five seconds each.
    assert seconds_of_a_read(web, member) < 2
    for connection in (in_the_head[0], in_the_body[0]):
        assert everything(connection).startswith(b"HTTP/1.1 408 ")
    assert everything(silent[0]) == b""


def test_a_large_body_that_stalls_ends_with_408_and_makes_nothing(web, member):
    """Above 64 KiB a thread reads it, at most for TASKPULSE_WEB_BODY_SECONDS."""
    create = request("POST", "/api/tasks", member, {"title": "x", "description": "y" * 70_000})
    stalled = [web.connect(create[:-20]) for _ in range(8)]
    assert b" 408 " in everything(stalled[0])[:20]
    assert seconds_of_a_read(web, member) < 2


def test_who_does_not_read_the_answer_holds_a_thread_for_a_while_only(web, member):
    for _ in range(60):
        assert web.call("POST", "/api/tasks", {"title": "x", "description": "y" * 20_000}, member)[0] == 201
    pages = []
    for _ in range(8):
        connection = web.connect_without_reading(10)
        connection.sendall(request("GET", "/api/tasks?limit=50", member) * 12)
        pages.append(connection)
    time.sleep(4.5)  # TASKPULSE_WEB_REQUEST_SECONDS and more
    assert seconds_of_a_read(web, member) < 2


def test_who_does_not_read_the_answers_of_probes_holds_none(web):
    """Liveness has one thread, readiness and metrics have another: one client that stalls it would be enough."""
    unread = web.connect_without_reading(0.3)
    closed = False
    for _ in range(2_000):
        try:
            unread.sendall(request("GET", "/metrics", {}))
        except ConnectionError:  # two seconds after the buffers between were full
            closed = True
            break
        assert [web.status(path, timeout=2) for path in ("/readyz", "/healthz")] == [200, 200]
    assert closed
    assert "Traceback" not in web.log


def test_an_answer_of_a_probe_that_is_read_slowly_comes_whole(web):
    connection = web.connect_without_reading(0.3)
    connection.sendall(request("GET", "/metrics", {"Connection": "close"}))
    time.sleep(1)
    found = everything(connection)
    assert int(re.search(rb"Content-Length: (\d+)", found)[1]) == len(found.partition(b"\r\n\r\n")[2])


def test_who_does_not_close_keeps_nobody_waiting(web, member):
    """gunicorn would wait two seconds for each, in the thread that accepts."""
    read = request("GET", "/api/tasks", member | {"Connection": "close"})
    answered = [web.connect(read) for _ in range(5)]
    for connection in answered:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    assert seconds_of_a_read(web, member) < 1.5
    assert seconds_of_a_read(web, member) < 1.5
