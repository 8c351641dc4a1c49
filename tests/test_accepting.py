"""New connections and the processes of the web role: each has its share, and one that is stuck keeps nobody waiting."""

import signal
import time

import psutil
import pytest

from taskpulse.accepting import Shares
from tests.running_up import wait_until
from tests.web_role import one_answer, request, web_role

_PROBE = request("GET", "/healthz", {})


def connections_of(web) -> list[int]:
    """By process, how many it has."""
    established = [[c for c in worker.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED] for worker in web.workers()]
    return [len([c for c in found if c.laddr.port == web.port]) for found in established]


def answered(web):
    connection = web.connect(_PROBE)
    assert one_answer(connection)[0] == 200
    return connection


def test_each_process_has_its_share_of_the_connections(committed_db, tmp_path):
    with web_role(tmp_path, WEB_CONCURRENCY="3") as web:
        wait_until(lambda: web.log.count("Booting worker") == 3, 10, "all run")
        time.sleep(0.5)
        kept = [answered(web) for _ in range(24)]
        counts = connections_of(web)
        assert sum(counts) == len(kept)
        assert max(counts) - min(counts) <= 2, counts


def test_a_process_that_is_stuck_keeps_no_connection_waiting(committed_db, tmp_path):
    """It has fewer connections than the other one all the time."""
    with web_role(tmp_path) as web:
        wait_until(lambda: len(web.workers()) == 2, 10, "both run")
        stuck = web.workers()[0]
        stuck.suspend()
        began = time.monotonic()
        kept = [answered(web) for _ in range(20)]
        assert time.monotonic() - began < 5
        assert sorted(connections_of(web)) == [0, len(kept)]
        stuck.resume()


def test_who_is_gone_has_no_share(committed_db, tmp_path):
    with web_role(tmp_path, WEB_CONCURRENCY="3") as web:
        wait_until(lambda: len(web.workers()) == 3, 10, "all run")
        web.signal(signal.SIGTTOU)
        wait_until(lambda: len(web.workers()) == 2, 20, "one is gone")
        kept = [answered(web) for _ in range(20)]
        counts = connections_of(web)
        assert sum(counts) == len(kept)
        assert max(counts) - min(counts) <= 2, counts


@pytest.fixture
def shares() -> Shares:
    return Shares()


def test_a_process_is_ahead_that_has_more_than_another(shares):
    first, second, third = shares.give([]), shares.give([0]), shares.give([0, 1])
    assert [shares.is_ahead(place) for place in (first, second, third)] == [False, False, False]
    shares.set(first, 3)
    shares.set(second, 2)
    assert [shares.is_ahead(place) for place in (first, second, third)] == [True, True, False]
    shares.leave(third)
    assert [shares.is_ahead(place) for place in (first, second)] == [True, False]
    assert shares.give([first, second]) == third
    assert shares.is_ahead(second)


def test_what_another_takes_is_seen(shares):
    first, second = shares.give([]), shares.give([0])
    before = shares.of_others(first)
    shares.set(first, 1)
    assert shares.of_others(first) == before
    shares.set(second, 1)
    assert shares.of_others(first) != before


def test_who_finds_no_place_takes_what_comes(shares):
    places = []
    while (place := shares.give(places)) is not None:
        places.append(place)
    assert len(places) == len(set(places)) == 128
    shares.set(None, 5)
    shares.leave(None)
    assert not shares.is_ahead(None)
