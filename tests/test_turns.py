"""Requests that take turns in one thread: each has a context and a session of its own, and none holds up another."""

import itertools
import json
import socket
import threading
import time
from collections import deque
from contextvars import ContextVar

import psycopg
import pytest
from psycopg.waiting import Ready, Wait

from taskpulse import turns
from taskpulse.admission import Arrived, look
from taskpulse.turns import Turns
from tasks.outbox import OutboxEvent
from tests.api_client import api
from tests.web_role import everything, impatient_web_role, make_creations_slow, nanoseconds_by_thread, one_answer, request, web_role


class Server:
    """What a turn waits for: it answers when `answer` is called."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair()

    def answer(self, what: bytes = b"x") -> None:
        self.theirs.send(what)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def wait(self, wanted: Wait = Wait.R, seconds: float = 5.0):
        def generator():
            return (yield wanted), self.ours.recv(10, socket.MSG_DONTWAIT) if wanted is Wait.R else b""

        return turns.current().wait(self.ours.fileno(), generator(), seconds)


@pytest.fixture
def servers():
    made = [Server() for _ in range(3)]
    yield made
    for server in made:
        server.close()


class Loop:
    """Turns whose jobs are functions; `finished` has what they returned, or what they raised."""

    def __init__(self, most: int):
        self.finished, self._deferred = [], deque()
        self.turns = Turns(most, self._serve, self.finished.append, lambda *call: self._deferred.append(call))

    def _serve(self, job) -> tuple:
        try:
            return (job(),)
        except (TimeoutError, ZeroDivisionError) as error:
            return (repr(error),)

    def run(self, *jobs) -> list:
        for job in jobs:
            self.turns.submit(job)
        return self.look()

    def look(self) -> list:
        self.turns.look(0)
        while self._deferred:
            function, *arguments = self._deferred.popleft()
            function(*arguments)
        return self.finished


def test_while_one_waits_another_goes_on(servers):
    loop = Loop(3)
    assert loop.run(*(server.wait for server in servers)) == []
    for number in (2, 0, 1):
        servers[number].answer(b"%d" % number)
        assert loop.look()[-1] == (Ready.R, b"%d" % number)


def test_who_has_no_turn_waits_in_line(servers):
    loop = Loop(2)
    loop.run(*(server.wait for server in servers), lambda: "the last")
    assert [job for job, _ in loop.turns.line][:-1] == [servers[2].wait]
    servers[1].answer()
    assert loop.look() == [(Ready.R, b"x")]
    servers[2].answer()
    assert loop.look()[1:] == [(Ready.R, b"x"), "the last"]
    assert not loop.turns.line


def test_many_that_wait_for_nothing_are_served_one_after_the_other():
    """Each by the loop: a chain of calls would be too deep."""
    loop = Loop(1)
    assert loop.run(*(lambda number=number: number for number in range(5_000))) == list(range(5_000))


def test_one_that_is_to_write_waits_until_it_may(servers):
    loop = Loop(1)
    servers[0].ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            servers[0].ours.send(b"x" * 65_536)
    assert loop.run(lambda: servers[0].wait(Wait.W)) == []
    while loop.finished == []:
        servers[0].theirs.recv(1_000_000)
        loop.look()
    assert loop.finished == [(Ready.W, b"")]


def test_a_wait_has_an_end(servers):
    loop = Loop(1)
    loop.run(lambda: servers[0].wait(seconds=0.5))
    loop.turns.end_waits(time.monotonic())
    assert loop.finished == []
    loop.turns.end_waits(time.monotonic() + 1)
    assert loop.finished == ["TimeoutError('no answer in time')"]
    # Too late; whoever has the turn now is not taken for who waited.
    servers[0].answer()
    loop.run(servers[1].wait)
    assert len(loop.look()) == 1
    loop.turns.end_waits(time.monotonic() + 1)
    assert len(loop.look()) == 1


def test_the_end_of_a_connection_ends_its_wait(servers):
    loop = Loop(1)
    loop.run(servers[0].wait)
    servers[0].theirs.close()
    assert loop.look() == [(Ready.RW, b"")]


def test_a_descriptor_that_is_used_anew_is_another_connection(servers):
    loop = Loop(1)
    loop.run(servers[0].wait)
    servers[0].answer()
    assert len(loop.look()) == 1
    number = servers[0].ours.fileno()
    servers[0].close()
    new = Server()
    servers.append(new)
    if new.ours.fileno() != number:
        new.ours, new.theirs = new.theirs, new.ours
    assert new.ours.fileno() == number
    loop.run(new.wait)
    assert len(loop.look()) == 1
    new.answer(b"new")
    assert loop.look()[1:] == [(Ready.R, b"new")]


def test_nothing_comes_from_what_is_forgotten(servers):
    loop, came = Loop(1), []
    loop.turns.expect(servers[0].ours.fileno(), came.append)
    loop.turns.expect(servers[1].ours.fileno(), came.append)
    loop.turns.forget(servers[0].ours.fileno())
    for server in servers:
        server.answer()
    loop.look()
    loop.look()
    assert came == [Ready.R]


def test_what_waits_for_something_else_does_it_in_a_thread():
    loop = Loop(1)
    over = threading.Event()

    def job():
        return threading.get_ident(), turns.elsewhere(lambda: (over.wait(5), threading.get_ident()))

    assert loop.run(job) == []
    over.set()
    while not loop.look():
        time.sleep(0.01)
    ((here, (waited, elsewhere)),) = loop.finished
    assert here == threading.get_ident() != elsewhere
    assert waited


def test_what_fails_elsewhere_fails_in_the_turn():
    loop = Loop(1)
    loop.run(lambda: turns.elsewhere(lambda: 1 / 0))
    while not loop.look():
        time.sleep(0.01)
    assert loop.finished == ["ZeroDivisionError('division by zero')"]


def test_what_is_elsewhere_has_the_context_of_its_turn():
    loop, told = Loop(1), ContextVar("told")

    def job():
        told.set("by the turn")
        return turns.elsewhere(told.get)

    loop.run(job)
    while not loop.look():
        time.sleep(0.01)
    assert loop.finished == ["by the turn"]


def test_a_turn_knows_whether_others_go_on_while_it_waits(servers):
    loop = Loop(2)

    def job(server):
        alone = not turns.others_go_on()
        server.wait()
        return alone, not turns.others_go_on()

    loop.run(lambda: job(servers[0]))  # alone
    loop.run(lambda: job(servers[1]), lambda: job(servers[2]))  # beside it, and who has to wait for a turn
    for server in servers:
        server.answer()
        loop.look()
    # The second begins while the first waits and a third stands in line; the third takes the first's turn.
    assert loop.finished == [(True, False), (False, False), (False, True)]
    assert not turns.others_go_on()


def test_without_a_turn_nothing_is_elsewhere():
    assert turns.current() is None
    assert turns.elsewhere(threading.get_ident) == threading.get_ident()


def test_each_turn_has_attributes_of_its_own(servers):
    loop = Loop(2)
    own = loop.turns.own
    own.name = "outside"

    def job(server, name):
        assert not hasattr(own, "name")
        own.name = name
        server.wait()
        found = own.name
        del own.name
        with pytest.raises(AttributeError):
            del own.name
        return found

    loop.run(lambda: job(servers[0], "first"), lambda: job(servers[1], "second"))
    for server in servers[:2]:
        server.answer()
        loop.look()
    assert loop.finished == ["first", "second"]
    assert own.name == "outside"
    with pytest.raises(AttributeError):
        own.other  # noqa: B018 (its error is what is asked)


# ---- which requests those are

KEY = "01a22aa8-cc5b-7804-9f94-9d50bd3a7224"


@pytest.mark.parametrize(
    ("head", "body", "arrived"),
    [
        (f"GET /api/tasks/{KEY}", "", Arrived.SHORT),
        (f"GET /api/tasks/{KEY}/", "", Arrived.SHORT),
        ("POST /api/tasks", "{}", Arrived.SHORT),
        (f"PATCH /api/tasks/{KEY}", "{}", Arrived.SHORT),
        (f"PUT /api/tasks/{KEY}", "{}", Arrived.SHORT),
        ("POST /api/tasks", "x" * 60_000, Arrived.SHORT),
        # It would have to be waited for, or what comes of it is long.
        ("POST /api/tasks", "x" * 70_000, Arrived.REQUEST),
        ("GET /api/tasks", "", Arrived.REQUEST),
        ("POST /api/tasks/bulk", "{}", Arrived.REQUEST),
        (f"GET /api/tasks/{KEY}/audited", "", Arrived.REQUEST),
        (f"GET /api/tasks/{KEY}?expand=subtasks", "", Arrived.REQUEST),
        (f"DELETE /api/tasks/{KEY}", "", Arrived.REQUEST),
        ("GET /admin/", "", Arrived.REQUEST),
    ],
)
def test_short_is_what_has_arrived_and_waits_for_postgresql_alone(head, body, arrived):
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    assert _seen(f"{head} HTTP/1.1\r\nHost: x\r\n{length}\r\n{body}") is arrived


@pytest.mark.parametrize(
    "more", ["Transfer-Encoding: chunked", "Expect: 100-continue", "Content-Length: 4000", "content-length: 2", "Upgrade: h2c"]
)
def test_what_somebody_could_take_to_be_longer_is_not_short(more):
    assert _seen(f"POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{more}\r\n\r\n{{}}") is not Arrived.SHORT


def test_a_body_that_is_not_there_yet_is_waited_for():
    assert _seen("POST /api/tasks HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\n{}") is Arrived.PART


def _seen(sent: str) -> Arrived:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.sendall(sent.encode())
        return look(ours)[0]


# ---- in the web role


@pytest.fixture
def slow_creation(committed_db):
    make_creations_slow(committed_db, 1)


def test_creations_take_turns_each_with_its_own_actor_and_request(slow_creation, tmp_path):
    """Eight at once, of four people: what a turn knows of its request is nobody else's."""
    people = [api("member") for _ in range(4)]
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        began, asked = time.monotonic(), {}
        for number, program in zip(range(8), itertools.cycle(people)):
            headers = program.headers | {"X-Request-ID": f"request-{number}"}
            asked[f"request-{number}"] = program.user, web.connect(request("POST", "/api/tasks", headers, {"title": f"{number}"}))
        answers = {name: one_answer(connection) for name, (_, connection) in asked.items()}
        assert time.monotonic() - began < 5  # one after the other takes 8 s
    events = [json.loads(bytes(row.payload)) for row in OutboxEvent.objects.all()]
    assert {event["requestid"]: event["actorid"] for event in events} == {name: str(user.pk) for name, (user, _) in asked.items()}
    assert {(status, headers["x-request-id"]) for status, headers, _ in answers.values()} == {(201, name) for name in asked}


def test_the_main_thread_serves_short_requests(committed_db, tmp_path):
    """No thread is handed over to, and none hands Python's lock to another."""
    program = api("member")
    read = request("GET", f"/api/tasks/{program.create()['id']}", program.headers)
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        (worker,) = web.workers()
        kept = [web.connect() for _ in range(8)]

        def share_of_the_main_thread() -> float:
            before = nanoseconds_by_thread(worker)
            for connection in kept:
                connection.sendall(read)
            for connection in kept:
                assert one_answer(connection)[0] == 200
            took = {thread: nanoseconds - before.get(thread, 0) for thread, nanoseconds in nanoseconds_by_thread(worker).items()}
            return took[str(worker.pid)] / sum(took.values())

        assert any(share_of_the_main_thread() > 0.95 for _ in range(50))


def test_who_does_not_read_a_short_answer_holds_no_turn(committed_db, tmp_path):
    """Ten of them: there are eight turns, and eight threads."""
    program = api("member")
    key = program.create(description="ä" * 20_000)["id"]
    with impatient_web_role(tmp_path) as web:
        unread = [web.connect_without_reading(5) for _ in range(10)]
        read = request("GET", f"/api/tasks/{key}", program.headers)
        for connection in unread:
            for _ in range(100):  # until what is between them is full
                connection.sendall(read)
        time.sleep(1)
        began = time.monotonic()
        assert web.call("POST", "/api/tasks", {"title": "x"}, program.headers)[0] == 201
        assert time.monotonic() - began < 2
        # One that reads late gets all of it.
        last = web.connect(read.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        time.sleep(0.5)
        assert everything(last).count("ä".encode()) == 20_000


def test_a_short_request_that_takes_too_long_loses_its_connection_and_no_other(committed_db, tmp_path):
    program = api("member")
    key = program.create()["id"]
    limits = {"TASKPULSE_WEB_STATEMENT_TIMEOUT_MS": "0", "TASKPULSE_WEB_LOCK_TIMEOUT_MS": "0", "TASKPULSE_WEB_REQUEST_SECONDS": "1"}
    with web_role(tmp_path, WEB_CONCURRENCY="1", **limits) as web, psycopg.connect(committed_db) as session:
        session.execute("SELECT FROM tasks_task WHERE id = %s FOR UPDATE", [key])
        stuck = web.connect(request("PATCH", f"/api/tasks/{key}", program.headers, {"title": "second"}))
        assert everything(stuck) == b""
        assert "a request takes longer than 1 s, its connection is closed" in web.log
        assert web.call("GET", f"/api/tasks/{key}", headers=program.headers)[0] == 200


def test_while_a_connection_to_postgresql_is_made_the_main_thread_goes_on(committed_db, tmp_path, monkeypatch):
    """A server that takes connections and says nothing is waited for as long as a connection may take, two seconds."""
    headers = api("member").headers
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DATABASE_URL", f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/somewhere")
        with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
            asked = web.connect(request("POST", "/api/tasks", headers, {"title": "x"}))
            time.sleep(0.5)
            assert web.status("/healthz", 1) == 200
            assert one_answer(asked)[0] == 503
