"""What has arrived whole is read at once, and never otherwise than gunicorn would read it; its answer goes out in one piece."""

import os
import re
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.errors import LimitRequestLine
from gunicorn.http.message import Request as GunicornRequest
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from taskpulse.admission import Arrived, look
from taskpulse.short_requests import ShortRequests
from taskpulse.whole_requests import Request, Requests, answer
from tests.api_client import api
from tests.running_up import wait_until
from tests.web_role import one_answer, request, web_role

KEY = "01a22aa8-cc5b-7804-9f94-9d50bd3a7224"
CLIENT, SERVER = ("192.0.2.7", 4711), ("192.0.2.1", 8000)


def settings() -> Config:
    """As deploy/gunicorn.conf.py has them."""
    config = Config()
    config.set("forwarded_allow_ips", "")
    config.set("secure_scheme_headers", {})
    return config


REQUESTS = Requests(settings())


def read(sent: bytes, client=CLIENT) -> tuple[Arrived, Request | None]:
    """What a worker makes of these bytes, which stay where they are."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.sendall(sent)
        arrived, head, length = look(ours)
        found = None
        if arrived in (Arrived.SHORT, Arrived.LIVENESS, Arrived.PROBE):
            found = REQUESTS.read(SimpleNamespace(sock=ours, client=client, server=SERVER), head, length)
        assert ours.recv(len(sent) + 1) == sent
        return arrived, found


def read_by_gunicorn(sent: bytes) -> tuple[dict, bytes, bool, bytes]:
    """The environment, the body, whether the connection is kept, and what is left of the bytes."""
    config = settings()
    message = GunicornRequest(config, IterUnreader([sent]), CLIENT)
    _, environ = wsgi.create(message, None, CLIENT, SERVER, config)
    body = message.body.read() if "CONTENT_LENGTH" in environ else b""
    return environ, body, not message.should_close(), message.unreader.buf.getvalue()


def told(environ: dict) -> dict:
    """All that an application learns of a request, but its body."""
    ours_alone = {"wsgi.input", "wsgi.errors", "wsgi.multithread", "wsgi.early_hints", "gunicorn.socket", "wsgi.file_wrapper"}
    return {name: value for name, value in environ.items() if name not in ours_alone}


def assert_read_as_by_gunicorn(sent: bytes, found: Request) -> None:
    environ, body, keeps, left = read_by_gunicorn(sent)
    assert told(found.environ) == told(environ)
    assert (found.environ["wsgi.input"].read(), found.keeps, sent[found.length :]) == (body, keeps, left)


# As these clients send them.
USUAL = {
    "curl": (
        "POST /api/tasks",
        ["Host: x", "User-Agent: curl", "Accept: */*", "Content-Type: application/json"],
        b'{"title": "x"}',
    ),
    "python": (f"GET /api/tasks/{KEY}", ["Host: x:80", "Accept-Encoding: gzip, deflate", "Connection: keep-alive"], b""),
    "browser": (f"PATCH /api/tasks/{KEY}", ["Host: x", "Cookie: sessionid=a; csrftoken=b", "X-CSRFToken: b", "DNT: 1"], b"{}"),
    "proxy": (
        f"PUT /api/tasks/{KEY}/",
        ["host: x", "x-forwarded-for: 10.0.0.1, 10.0.0.2", "empty:", "x:\t a \t"],
        b"{}",
    ),
    "last": (f"GET /api/tasks/{KEY}", ["Host: x", "Connection: close"], b""),
    "kubelet": ("GET /readyz", ["Host: 10.0.0.1", "User-Agent: kube-probe/1.33", "Connection: close"], b""),
    "scrape": ("GET /metrics?name=x", ["Host: x", "Accept: text/plain"], b""),
    "long": ("POST /api/tasks", ["Host: x"], b"x" * 60_000),
}


@pytest.mark.parametrize("client", USUAL)
def test_what_clients_send_is_read_at_once(client):
    line, fields, body = USUAL[client]
    fields = [*fields, f"Content-Length: {len(body)}"] if body else fields
    sent = "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode() + body
    _, found = read(sent)
    assert_read_as_by_gunicorn(sent, found)


def test_a_probe_of_http_1_0_is_read_at_once():
    sent = b"GET /healthz HTTP/1.0\r\n\r\n"
    arrived, found = read(sent)
    assert (arrived, found.keeps) == (Arrived.LIVENESS, False)
    assert_read_as_by_gunicorn(sent, found)


def test_the_next_request_stays_where_it_is():
    first = f"GET /api/tasks/{KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    _, found = read(first + b"DELETE /api/tasks HTTP/1.1\r\n\r\n")
    assert found.length == len(first)


@pytest.mark.parametrize(
    "field",
    [
        "Host: y", "Accept: a\r\nAccept: b", "Bad name: x", "Name : x", ": x", "X: a\r\n folded", "X: a\0b", "X: a\nY: b",
        "X: a\rb", "no colon", "Connection: close, x", "X: \x7f", "\r\n".join(f"X-{number}: x" for number in range(100)),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_gunicorn(field):
    sent = f"GET /api/tasks/{KEY} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode()
    assert read(sent) == (Arrived.SHORT, None)


@pytest.mark.parametrize(
    "sent",
    [
        "GET /%61 HTTP/1.1\r\n\r\n", "GET /#a HTTP/1.1\r\n\r\n", "GET /ä HTTP/1.1\r\n\r\n", "GET http://x/ HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n", "GET / HTTP/2.0\r\nConnection: close\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{",
        "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
)  # fmt: skip
def test_nor_is_what_none_of_these_requests_looks_like(sent):
    conn, data = SimpleNamespace(client=CLIENT, server=SERVER), sent.encode()
    assert REQUESTS.read(conn, b"GET / HTTP/1.1\r\n\r\n", 18) is not None
    assert REQUESTS.read(conn, data, len(data)) is None


def test_a_name_that_could_pass_for_another_is_not_believed():
    """An application cannot tell X_Forwarded_For from X-Forwarded-For."""
    sent = f"GET /api/tasks/{KEY} HTTP/1.1\r\nHost: x\r\nX_Forwarded_For: 10.0.0.1\r\n\r\n".encode()
    _, found = read(sent)
    assert "HTTP_X_FORWARDED_FOR" not in found.environ
    assert_read_as_by_gunicorn(sent, found)


def test_a_line_that_is_too_long_is_left_to_gunicorn():
    longest = f"GET /healthz?{'x' * 4072} HTTP/1.1"
    assert_read_as_by_gunicorn(sent := f"{longest}\r\n\r\n".encode(), read(sent)[1])
    sent = f"{longest.replace('?', '?xx')}\r\n\r\n".encode()
    assert read(sent) == (Arrived.LIVENESS, None)
    with pytest.raises(LimitRequestLine):
        read_by_gunicorn(sent)


@pytest.mark.parametrize(
    ("name", "value"),
    [("header_map", "refuse"), ("limit_request_field_size", 100), ("limit_request_fields", 5), ("limit_request_line", 100),
     ("proxy_protocol", "auto")],
)  # fmt: skip
def test_where_gunicorn_is_to_read_otherwise_all_is_left_to_it(name, value):
    config = settings()
    config.set(name, value)
    assert reads_a_probe(REQUESTS)
    assert not reads_a_probe(Requests(config))


def test_where_all_paths_have_a_prefix_all_is_left_to_gunicorn(monkeypatch):
    monkeypatch.setenv("SCRIPT_NAME", "/tasks")
    assert not reads_a_probe(Requests(settings()))


def reads_a_probe(requests: Requests) -> bool:
    sent = b"GET /healthz HTTP/1.1\r\n\r\n"
    return requests.read(SimpleNamespace(client=CLIENT, server=SERVER), sent, len(sent)) is not None


def test_a_client_of_a_unix_socket_is_left_to_gunicorn():
    assert read(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", client="")[1] is None


_NAMES = st.sampled_from(
    ["Host", "host", "Accept", "Connection", "Content-Type", "Content-Length", "content-length", "Cookie", "X_Y", "X-Y", "x-y",
     "Keep-Alive", "X-Forwarded-For", "If-Match", "Script-Name", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "", "a b", "ä"]
)  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(
        ["2", "0", "+2", "02", "close", "keep-alive", "Close, x", "keep-alive, close", "x", "", " x ", "\tx\t", "chunked", "ä"]
    ),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
_FIELDS = st.lists(
    st.tuples(
        _NAMES, st.sampled_from([": ", ":", " : ", ":\t", ""]), _VALUES, st.sampled_from(["\r\n"] * 9 + ["\n", "\r", "\r\n\t"])
    ),
    max_size=5,
)
_LINES = st.sampled_from(
    ["POST /api/tasks HTTP/1.1", f"GET /api/tasks/{KEY} HTTP/1.1", f"PATCH /api/tasks/{KEY}/ HTTP/1.1", "GET /healthz HTTP/1.1",
     "GET /healthz HTTP/1.0", "GET /ready?x=%2e HTTP/1.1", "GET /metrics#x HTTP/1.1", "GET /ready HTTP/2.0",
     "GET /health?ä HTTP/1.1", "GET /health  HTTP/1.1", "GET /health"]
)  # fmt: skip
_SPLICES = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=2)), max_size=2)


@given(_LINES, _FIELDS, st.sampled_from([b"", b"{}", b"{}GET / HTTP/1.1\r\n\r\n"]), _SPLICES)
def test_nothing_is_read_otherwise_than_gunicorn_reads_it(line, fields, body, splices):
    """Any request that is taken at once: gunicorn takes it too, for the same, and ends it at the same byte."""
    head = f"{line}\r\n" + "".join("".join(field) for field in fields)
    sent = bytearray(head.encode("latin-1") + b"\r\n" + body)
    for position, what in splices:
        sent[position : position + 1] = what
    if sent and (found := read(bytes(sent))[1]):
        assert_read_as_by_gunicorn(bytes(sent), found)


# ---- answers


class Parts(list):
    closed = False

    def close(self) -> None:
        self.closed = True


def answered(parts: Parts, status: str = "200 OK", headers=(), keeps: bool = True) -> bytes:
    def application(environ, start_response):
        start_response(status, list(headers))
        return parts

    return answer(application, Request({}, 0, True), keeps)


def test_head_and_body_are_one_piece():
    parts = Parts([b"{", b"}"])
    head, _, body = answered(parts, headers=[("Content-Length", "2"), ("ETag", '"1"')]).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert (lines[0], body, parts.closed) == ("HTTP/1.1 200 OK", b"{}", True)
    assert re.fullmatch(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", lines[2])
    assert [lines[1], *lines[3:]] == ["Server: gunicorn", "Connection: keep-alive", "Content-Length: 2", 'ETag: "1"']


def test_a_body_s_length_is_said_and_no_other_s():
    for headers in ([], [("X-Request-ID", "content-length:5")]):
        assert b"\r\nContent-Length: 3\r\n" in answered(Parts([b"abc"]), headers=headers)
    assert b"Content-Length" not in answered(Parts(), "304 Not Modified")


def test_the_last_answer_of_a_connection_says_so():
    assert b"\r\nConnection: close\r\n" in answered(Parts(), keeps=False)


def test_parts_are_closed_when_one_fails():
    class Failing(Parts):
        def __iter__(self):
            raise ZeroDivisionError

    parts = Failing()
    with pytest.raises(ZeroDivisionError):
        answered(parts)
    assert parts.closed


# ---- in a worker


class Worker(ShortRequests):
    """Without its process."""

    def __init__(self, application):
        self.cfg, self.log, self.wsgi = settings(), SimpleNamespace(info=self.says, exception=self.says), application
        self.alive, self.nr, self.max_requests, self.max_keepalived, self.keepalived_conns = True, 0, 1000, 10, []
        self.said: list[str] = []

    def says(self, text, *values) -> None:
        self.said.append(text % values)

    def serve(self, sent: bytes, ours: socket.socket, theirs: socket.socket) -> tuple[bytes, bool]:
        theirs.sendall(sent)
        conn = SimpleNamespace(sock=ours, client=CLIENT, server=SERVER)
        _, head, length = look(ours)
        return self.serve_whole(REQUESTS.read(conn, head, length), conn)


def saying(body: bytes):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return Parts([body])

    return application


READ = f"GET /api/tasks/{KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture
def ends():
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.settimeout(5)
        ours.setblocking(False)
        yield ours, theirs


def test_the_request_and_nothing_else_is_taken_from_the_socket(ends):
    left, kept = Worker(saying(b"{}")).serve(READ + b"GET", *ends)
    assert (left, kept, ends[0].recv(10)) == (b"", True, b"GET")
    assert ends[1].recv(1000).endswith(b"\r\n\r\n{}")


def test_nobody_waits_for_a_client(ends):
    """What the network does not take at once is left, in order."""
    body = os.urandom(5_000_000)
    left, kept = Worker(saying(body)).serve(READ, *ends)
    assert 0 < len(left) < len(body)
    assert kept
    taken = b""
    while len(taken.partition(b"\r\n\r\n")[2]) + len(left) < len(body):
        taken += ends[1].recv(1_000_000)
    assert taken.partition(b"\r\n\r\n")[2] + left == body


def test_an_answer_is_left_whole_while_the_network_is_full(ends):
    with pytest.raises(BlockingIOError):
        while True:
            ends[0].send(b"x" * 100_000, socket.MSG_DONTWAIT)
    left, kept = Worker(saying(b"{}")).serve(READ, *ends)
    assert (left[:9], left[-2:], kept) == (b"HTTP/1.1 ", b"{}", True)


def test_an_application_that_fails_is_a_problem_for_its_client_and_a_line_in_the_log(ends):
    def application(environ, start_response):
        raise ZeroDivisionError("secret")

    worker = Worker(application)
    assert worker.serve(READ, *ends) == (b"", False)
    found = ends[1].recv(1000)
    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"application/problem+json" in found
    assert b"secret" not in found
    assert worker.said == [f"the application failed at GET /api/tasks/{KEY}"]


def test_a_client_that_is_gone_ends_its_connection_alone(ends):
    def application(environ, start_response):
        ends[1].close()
        return saying(b"{}")(environ, start_response)

    assert Worker(application).serve(READ, *ends) == (b"", False)


@pytest.mark.parametrize("because", ["stopping", "full", "client", "worn out", "worn out by this client"])
def test_a_connection_that_is_not_kept_is_told_so(ends, because):
    worker, sent = Worker(saying(b"{}")), READ
    if because == "stopping":
        worker.alive = False
    elif because == "full":
        worker.keepalived_conns = [None] * worker.max_keepalived
    elif because.startswith("worn out"):
        worker.max_requests = 1
    if because.endswith("client"):
        sent = READ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert worker.serve(sent, *ends) == (b"", False)
    assert b"\r\nConnection: close\r\n" in ends[1].recv(1000)
    assert worker.said == (["this worker has served 1 requests and is replaced"] if because.startswith("worn out") else [])


def test_a_worker_is_replaced_after_as_many_requests_as_gunicorn_is_told(committed_db, tmp_path):
    program = api("member")
    read = request("GET", f"/api/tasks/{program.create()['id']}", program.headers)
    with web_role(tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--max-requests 20") as web:
        (first,) = web.workers()
        connection, answers = web.connect(), []
        while not answers or answers[-1]["connection"] == "keep-alive":
            connection.sendall(read)
            status, headers, _ = one_answer(connection)
            assert status == 200
            answers.append(headers)
        assert 10 < len(answers) <= 20
        wait_until(lambda: [worker.pid for worker in web.workers()] not in ([], [first.pid]), 10, "another worker serves")


def test_what_is_not_plain_is_answered_by_gunicorn(committed_db, tmp_path):
    program = api("member")
    key = program.create()["id"]
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        for more, expected in ({"X": "a", "x": "b"}, (200, "application/json")), ({"X y": "a"}, (400, "application/problem+json")):
            asked = web.connect(request("GET", f"/api/tasks/{key}", program.headers | more))
            status, headers, _ = one_answer(asked)
            assert (status, headers["content-type"]) == expected
