"""Connections that linger: each request is one thread's, few threads serve many, and nobody is forgotten."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from taskpulse import processors
from taskpulse.lingering import Lingering
from taskpulse.processors import Processors, Room
from tests.api_client import api
from tests.web_role import nanoseconds_by_thread, one_answer, request, web_role


class Pair:
    """Both ends of a connection."""

    def __init__(self):
        self.client, server = socket.socketpair()
        self.conn = SimpleNamespace(sock=server)

    def close(self):
        self.client.close()
        self.conn.sock.close()


@pytest.fixture
def pairs():
    opened = [Pair() for _ in range(3)]
    yield opened
    for pair in opened:
        pair.close()


def test_a_request_is_given_to_one_thread(pairs):
    lingering = Lingering(3)
    for pair in pairs:
        assert lingering.add(pair.conn)
    assert lingering.next(0) is None
    with ThreadPoolExecutor(4) as threads:
        taken = [threads.submit(lingering.next, 0.5) for _ in range(4)]
        pairs[1].client.send(b"x")
        assert [conn for conn in (each.result() for each in taken) if conn] == [pairs[1].conn]
    # It is still to be read, and nobody else's until it comes back.
    assert lingering.next(0) is None
    assert lingering.add(pairs[1].conn)
    assert lingering.next(0) is pairs[1].conn


def _woken(pair: Pair) -> list[int]:
    """Which of four threads that began to wait one after the other were woken for two requests."""
    lingering, woken = Lingering(1), []
    lingering.add(pair.conn)

    def wait(number: int) -> None:
        if lingering.next(1):
            woken.append(number)

    waiting = [threading.Thread(target=wait, args=[number]) for number in range(4)]
    for thread in waiting:
        thread.start()
        time.sleep(0.05)
    for _ in range(2):
        pair.client.send(b"x")
        time.sleep(0.1)
        lingering.add(pair.conn)
    for thread in waiting:
        thread.join()
    return woken[:2]


def test_who_began_to_wait_last_is_woken_first(pairs):
    # A busy machine may let a thread that was started earlier begin to wait later.
    assert any(_woken(pair) == [3, 2] for pair in pairs)


def test_there_are_so_many_at_most(pairs):
    lingering = Lingering(2)
    assert [lingering.add(pair.conn) for pair in pairs] == [True, True, False]
    pairs[0].client.send(b"x")
    assert lingering.next(0) is pairs[0].conn
    assert lingering.add(pairs[2].conn)


def test_what_is_taken_back_is_given_to_no_thread(pairs):
    lingering = Lingering(3)
    lingering.add(pairs[0].conn)
    time.sleep(0.1)
    lingering.add(pairs[1].conn)
    assert lingering.take_back(0.05) == [pairs[0].conn]
    assert lingering.take_back(0.05) == []
    pairs[0].client.send(b"x")
    assert lingering.next(0) is None
    assert lingering.take_back() == [pairs[1].conn]
    assert lingering.take_back() == []
    # It may come again.
    lingering.add(pairs[0].conn)
    assert lingering.next(0) is pairs[0].conn


def test_a_descriptor_that_is_used_anew_is_another_connection(pairs):
    lingering = Lingering(3)
    old = pairs.pop()
    lingering.add(old.conn)
    old.client.send(b"x")
    number = lingering.next(0).sock.fileno()
    old.close()
    new = Pair()
    pairs.append(new)
    assert number in (new.client.fileno(), new.conn.sock.fileno())
    new.conn.sock, new.client = (end for end in sorted((new.conn.sock, new.client), key=lambda end: end.fileno() != number))
    lingering.add(new.conn)
    assert lingering.next(0) is None
    new.client.send(b"x")
    assert lingering.next(0) is new.conn


def test_one_thread_serves_clients_that_take_turns(committed_db, tmp_path):
    """With its one database session, instead of a thread and a session for each."""
    read = request("GET", "/api/tasks", api("member").headers)
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        (worker,) = web.workers()
        kept = [web.connect() for _ in range(8)]

        def share_of_the_busiest() -> float:
            before = nanoseconds_by_thread(worker)
            for connection in kept * 3:
                connection.sendall(read)
                assert one_answer(connection)[0] == 200
            took = [nanoseconds - before.get(thread, 0) for thread, nanoseconds in nanoseconds_by_thread(worker).items()]
            return max(took) / sum(took)

        # Where the machine makes a client pause for longer than a thread waits, another one may be the next.
        assert any(share_of_the_busiest() > 0.95 for _ in range(200))


@pytest.fixture
def short_and_long(committed_db) -> tuple[bytes, bytes]:
    """Two requests. Nothing runs that would record the task, so that the second is answered after as long as it may wait."""
    program = api("member")
    key = program.create()["id"]
    long = request("GET", f"/api/tasks/{key}/audited", {**program.headers, "Prefer": "wait=1"})
    return request("GET", "/api/tasks", program.headers), long


def test_who_pauses_does_not_wait_for_the_long_request_of_another(short_and_long, tmp_path):
    """The only thread at work has no time for them."""
    read, long = short_and_long
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        kept, waiting = web.connect(), web.connect(long)
        began = time.monotonic()
        for _ in range(20):
            kept.sendall(read)
            assert one_answer(kept)[0] == 200
            time.sleep(0.02)
        assert time.monotonic() - began < 0.9
        assert one_answer(waiting)[0] == 200
        assert time.monotonic() - began > 0.9


def test_who_shared_a_thread_with_a_long_request_waits_for_a_moment_only(short_and_long, tmp_path):
    read, long = short_and_long
    with web_role(tmp_path, WEB_CONCURRENCY="1") as web:
        kept = [web.connect() for _ in range(4)]
        for _ in range(20):
            for connection in kept:
                connection.sendall(read)
                assert one_answer(connection)[0] == 200
        # All linger: whoever waits for them has this one first.
        kept[0].sendall(long)
        began = time.monotonic()
        for connection in kept[1:]:
            connection.sendall(read)
            assert one_answer(connection)[0] == 200
        assert time.monotonic() - began < 0.6
        assert one_answer(kept[0])[0] == 200


@pytest.mark.parametrize(
    ("before", "after", "idle"),
    [
        ("cpu 10 0 10 100 0 0 0 0 0 0", "cpu 60 0 20 130 10 0 0 0 50 0", 0.4),
        ("cpu 10 0 10 100 0 0 0 0 0 0", "cpu 90 0 30 100 0 0 0 0 0 0", 0.0),
        ("cpu 10 0 10 100 0 0 0 0 0 0", "cpu 10 0 10 100 0 0 0 0 0 0", 1.0),
    ],
)
def test_idle_is_what_nobody_used_since(monkeypatch, tmp_path, before, after, idle):
    stat = tmp_path / "stat"
    monkeypatch.setattr(processors, "_STAT", stat)
    stat.write_text(f"{before}\ncpu0 1 2 3\n")
    found = Processors()
    stat.write_text(f"{after}\ncpu0 1 2 3\n")
    assert found.idle() == pytest.approx(idle)


def test_where_the_system_does_not_tell_there_is_time(monkeypatch, tmp_path):
    monkeypatch.setattr(processors, "_STAT", tmp_path / "none")
    assert Processors().idle() == 1.0


def test_there_is_room_for_few_where_the_machine_has_no_time_left(monkeypatch):
    room, left = Room(8), iter([0.5, 0.04, 0.0, 0.1, 0.2, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    monkeypatch.setattr(Processors, "idle", lambda self: next(left))
    found = [room.most]
    for _ in range(12):
        room.look()
        found.append(room.most)
    assert found == [8, 8, 2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 8]
    single = Room(1)
    monkeypatch.setattr(Processors, "idle", lambda self: 0.0)
    single.look()
    assert single.most == 1
