"""What probes of relay and consumer conclude: from a worker at fault, from the outbox, from looks that get no answer."""

import http.client
import json
import re
import socket
import threading
import time

import pytest
from django.db import connection

from taskpulse import worker_health, worker_server
from taskpulse.observation import Observation
from taskpulse.on_demand import OnDemand
from taskpulse.worker import Stop
from taskpulse.worker_health import Progress
from taskpulse.worker_server import WorkerServer
from tasks import outbox_figures
from tests.recording import task_with_versions
from tests.relaying import hold
from tests.running_up import wait_until
from tests.worker_role import samples


class AtFault:
    """A worker in whatever state a test wants it to be."""

    role = "consumer"
    partitions = frozenset({0, 1})

    def __init__(self):
        self.beat = time.monotonic()
        self.reason: str | None = None
        self.wrong: dict[str, str] = {}

    def troubles(self):
        return self.wrong

    def notes(self):
        return {}

    def stuck(self):
        return self.reason


@pytest.fixture
def served(settings):
    settings.WORKER_PORT, settings.WORKER_ADDRESS = 0, "127.0.0.1"
    worker, stop = AtFault(), Stop()
    with WorkerServer(worker, stop) as server:
        yield worker, stop, server


def ask(server, path: str, method: str = "GET") -> tuple[int, bytes]:
    client = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    client.request(method, path)
    answer = client.getresponse()
    body = answer.read()
    client.close()
    return answer.status, body


def test_a_worker_that_a_new_process_would_mend_is_not_alive(served):
    worker, _, server = served
    assert ask(server, "/healthz") == (200, b'{"status":"ok","checks":{}}')
    assert ask(server, "/healthz", "HEAD") == (200, b"")
    worker.reason = "receives nothing"
    status, body = ask(server, "/healthz")
    assert (status, json.loads(body)["checks"]) == (503, {"consumer": {"status": "failed", "detail": "receives nothing"}})


def test_a_worker_that_was_asked_to_stop_is_not_ready_and_lives(served):
    _, stop, server = served
    stop.requested = True
    assert ask(server, "/readyz")[0] == 503
    assert ask(server, "/healthz")[0] == 200


def test_metrics_know_what_readiness_knows_of_the_broker(db, monkeypatch):
    """The worker's client sees an outage before a look at the broker does, whose last good answer serves for a while."""
    monkeypatch.setattr(worker_health.Observer, "observe", lambda self: observation({0: 0}, {}))
    worker = AtFault()
    health = worker_health.WorkerHealth(worker, Stop())
    wait_until(lambda: health.ready()[0]["kafka"] is None, 10, "the broker was seen")
    worker.wrong = {"kafka": "all brokers are down"}
    assert health.ready()[0]["kafka"] == "all brokers are down"
    assert samples(health.metrics().decode())['taskpulse_dependency_up{dependency="kafka"}'] == 0


def test_what_is_no_get_or_no_page_is_refused(served):
    *_, server = served
    assert ask(server, "/")[0] == 404
    assert ask(server, "/metrics/../healthz")[0] == 404
    assert ask(server, "/healthz", "POST")[0] == 501


def test_silent_connections_do_not_pile_up_and_a_free_place_answers(served):
    *_, server = served
    silent = [socket.create_connection(server.server_address[:2]) for _ in range(worker_server.MOST)]

    def is_answered() -> bool:
        try:
            return ask(server, "/healthz")[0] == 200
        except (ConnectionError, http.client.HTTPException):
            return False

    wait_until(lambda: not is_answered(), worker_server.SILENCE, "one more is refused")
    silent.pop().close()
    wait_until(is_answered, worker_server.SILENCE, "there is room again")
    for one in silent:
        one.close()


def test_a_silent_connection_is_closed_after_a_while(served, monkeypatch):
    *_, server = served
    monkeypatch.setattr(worker_server._Request, "timeout", 0.2)
    with socket.create_connection(server.server_address[:2], timeout=10) as silent:
        silent.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert silent.recv(1000) == b""


# Progress


def observation(highs: dict[int, int], commits: dict[int, int]) -> Observation:
    return Observation("cluster", None, dict.fromkeys(highs, 0), highs, commits)


def test_a_partition_stands_while_it_has_messages_and_no_commit():
    progress = Progress()
    progress.seen(observation({0: 5, 1: 5, 2: 5}, {0: 5, 1: 3}))
    time.sleep(0.02)
    progress.seen(observation({0: 5, 1: 9, 2: 6}, {0: 5, 1: 4}))
    standing = progress.standing()
    assert set(standing) == {1, 2}
    assert standing[1] < 0.02 <= standing[2]
    progress.seen(observation({0: 6, 1: 9, 2: 6}, {0: 5, 1: 9, 2: 6}))
    assert set(progress.standing()) == {0}


def test_a_consumer_whose_partition_stands_is_not_ready_and_another_is(settings, monkeypatch):
    settings.STUCK_SECONDS = 0
    worker = AtFault()
    health = worker_health.WorkerHealth(worker, Stop())
    monkeypatch.setattr(health._broker, "_read", lambda: observation({1: 7}, {1: 4}))
    monkeypatch.setattr(health._database, "_read", lambda: ({"database": None, "migrations": None}, None))
    monkeypatch.setattr(health, "_busy", lambda: None)
    health.ready()
    checks, _ = health.ready()
    assert checks["consumer"].startswith("3 messages of partition 1 wait, and none was handled for")
    worker.partitions = frozenset({0})
    assert health.ready()[0]["consumer"] is None


# Looks


def test_those_who_ask_at_once_share_a_look():
    calls, proceed = [], threading.Event()

    def read():
        calls.append(1)
        proceed.wait(10)
        return 7

    look = OnDemand("test", read)
    found = []
    threads = [threading.Thread(target=lambda: found.append(look.look(10))) for _ in range(5)]
    for thread in threads:
        thread.start()
    proceed.set()
    for thread in threads:
        thread.join()
    assert [one.value for one in found] == [7] * 5
    assert look.look(0).value == 7
    assert len(calls) == 1


def test_a_look_for_which_there_was_no_thread_is_taken_the_next_time(monkeypatch):
    look = OnDemand("test", lambda: 7)
    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            look.look(0)
    assert look.look(10).value == 7


def test_a_probe_for_which_there_was_no_thread_keeps_no_place(served, monkeypatch):
    _, _, server = served
    with monkeypatch.context() as without_threads:
        without_threads.setattr(worker_server.ThreadingHTTPServer, "process_request", no_thread)
        for _ in range(worker_server.MOST + 1):
            with socket.create_connection(server.server_address[:2], timeout=10) as client:
                assert client.recv(1) == b""
    assert ask(server, "/healthz")[0] == 200


def no_thread(*_):
    raise RuntimeError("can't start new thread")


def test_a_look_without_an_answer_takes_no_longer_than_the_patience(monkeypatch):
    proceed = threading.Event()
    look = OnDemand("test", lambda: proceed.wait(30))
    began = time.monotonic()
    found = look.look(0.1)
    assert time.monotonic() - began < 5
    assert found.value is None
    assert re.fullmatch(r"no answer after \d\.\d s", str(found.error))
    proceed.set()
    assert look.look(10).value is True
    # The next has no answer either: the last one serves, for a while.
    monkeypatch.setattr(OnDemand, "FRESH", -1.0)
    proceed.clear()
    assert look.look(0.05).value is True
    monkeypatch.setattr(OnDemand, "KEPT", -1.0)
    assert isinstance(look.look(0.05).error, TimeoutError)
    proceed.set()


def test_what_was_wrong_last_is_said_while_the_next_look_hangs(monkeypatch):
    proceed, looked = threading.Event(), []

    def read():
        looked.append(1)
        if len(looked) == 1:
            raise OSError("connection refused")
        proceed.wait(30)

    monkeypatch.setattr(OnDemand, "FRESH", -1.0)
    monkeypatch.setattr(OnDemand, "KEPT", -1.0)
    look = OnDemand("test", read)
    assert [str(look.look(patience).error) for patience in (10, 0.05)] == ["connection refused"] * 2
    proceed.set()


def test_what_a_look_raises_is_its_answer():
    def read():
        raise OSError("no route to host")

    found = OnDemand("test", read).look(10)
    assert (found.value, str(found.error)) == (None, "no route to host")


# Figures of the outbox


def test_figures_of_the_outbox_are_exact_while_it_is_small(db):
    assert outbox_figures.read() == (0, 0, 0, 0)
    task_with_versions(3)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM tasks_outbox ORDER BY id")
        (first,), *_ = cursor.fetchall()
        cursor.execute("UPDATE tasks_outbox SET published_at = clock_timestamp() WHERE id = %s", [first])
    figures = outbox_figures.read()
    assert (figures.pending, figures.held) == (3, 0)
    assert 0 < figures.unpublished_age <= figures.oldest_age < 600
    hold(first)
    assert outbox_figures.read().held == 1


def test_a_large_outbox_is_estimated(committed_db, monkeypatch):
    monkeypatch.setattr(outbox_figures, "COUNTED", 50)
    fill = (
        "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, payload) "
        "SELECT id, 'task', n::text, 1, convert_to(json_build_object('id', id, 'x', repeat('x', 300))::text, 'UTF8') "
        "FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(%s::int, %s::int) n) rows"
    )
    with connection.cursor() as cursor:
        cursor.execute(fill, [1, 1000])
        cursor.execute("ANALYZE tasks_outbox")
        assert outbox_figures.read().pending == pytest.approx(1000, rel=0.1)
        cursor.execute(fill, [1001, 2000])
    assert outbox_figures.read().pending == pytest.approx(2000, rel=0.15), "no ANALYZE since"
