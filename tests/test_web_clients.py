"""What clients may send in ways that the server sees before the application does: in pieces, several at once, too much."""

import json
import socket
import time
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from taskpulse.web import LingeringWorker
from tests.api_client import api
from tests.web_role import everything, impatient_web_role, one_answer, request


@pytest.fixture
def member(committed_db) -> dict:
    return api("member").headers


@pytest.fixture
def web(member, tmp_path):
    with impatient_web_role(tmp_path) as role:
        yield role


def test_a_request_in_many_pieces_is_served(web, member):
    connection = web.connect()
    for byte in request("GET", "/api/tasks", member):
        connection.send(bytes([byte]))
    assert one_answer(connection)[0] == 200
    create = request("POST", "/api/tasks", member, {"title": "x", "description": "y" * 15_000})
    for start in range(0, len(create), 4_000):
        connection.send(create[start : start + 4_000])
        time.sleep(0.01)
    assert one_answer(connection)[0] == 201


def test_a_client_that_waits_for_100_continue_is_not_kept_waiting(web, member):
    create = request("POST", "/api/tasks", member | {"Expect": "100-continue"}, {"title": "x"})
    head, _, body = create.partition(b"\r\n\r\n")
    connection = web.connect(head + b"\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.sendall(body)
    assert connection.recv(100).startswith(b"HTTP/1.1 201 ")


def test_pipelined_requests_are_answered_in_order(web, member):
    reads = [request("GET", "/api/tasks", member | {"X-Request-ID": f"r{number}"}) for number in range(5)]
    connection = web.connect(b"".join(reads[:4]) + reads[4].replace(b"Host:", b"Connection: close\r\nHost:"))
    found = everything(connection)
    places = [found.index(f"X-Request-ID: r{number}".encode()) for number in range(5)]
    assert places == sorted(places)


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_a_body_that_nobody_read_is_no_request(web, member, form):
    """RFC 9112 §11.2: what follows on a kept connection would be answered to somebody else."""
    smuggled = request("DELETE", "/api/tasks", member) * 50
    if form == "length":
        body = b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    else:
        body = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    connection = web.connect(request("POST", "/api/tasks", {"Authorization": "Bearer nobody"}).removesuffix(b"\r\n") + body)
    assert one_answer(connection)[0] == 401
    connection.sendall(request("GET", "/api/tasks", member))
    assert one_answer(connection)[0] == 200


def test_a_kept_connection_keeps_no_request():
    worker, (client, server) = LingeringWorker.__new__(LingeringWorker), socket.socketpair()
    with client, server:
        conn = SimpleNamespace(parser=RequestParser(Config(), server, None))
        for body, was_read in ((b"whole", False), (b"", True)):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            next(conn.parser)
            assert worker._keepalive_after(conn, True)
            assert (conn.parser.mesg is None) is was_read
            assert server.gettimeout() is None


def test_chunks_that_stall_or_are_malformed_end_with_400(web, member):
    head = request("POST", "/api/tasks", member | {"Transfer-Encoding": "chunked", "Content-Type": "application/json"})
    for chunks in (b'5\r\n{"tit\r\n', b"zz\r\n"):
        assert b" 400 " in everything(web.connect(head + chunks))[:20], chunks
    # What gunicorn itself cannot read.
    for start in (b"GET /api/tasks HTTP/9.1", b"G\x00T / HTTP/1.1", b"GET /" + b"x" * 5_000 + b" HTTP/1.1"):
        refused = everything(web.connect(start + b"\r\nHost: localhost\r\n\r\n"))
        assert b"\r\nContent-Type: application/problem+json\r\n" in refused, start
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["request_id"]
    assert "Traceback" not in web.log


def test_a_body_that_is_too_large_is_a_problem(web, member):
    status, headers, body = web.call("POST", "/api/tasks", {"title": "x" * 1_000_001}, member)
    assert (status, headers["Content-Type"]) == (413, "application/problem+json")
    assert json.loads(body)["type"] == "/api/problems/content-too-large"
