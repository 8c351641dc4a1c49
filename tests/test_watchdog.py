"""A worker's process ends where it hangs, or where its stop takes too long."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from taskpulse import watchdog
from taskpulse.watchdog import Watchdog
from taskpulse.worker import Stop
from tasks import relay
from tests.relaying import add, unpublished, until
from tests.running_up import ROOT, wait_until


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(watchdog, "_TICK", 0.01)
    monkeypatch.setattr(watchdog, "STOP_SECONDS", 0.3)


def test_what_hangs_is_ended_once(caplog):
    ended, hangs = [], [None]
    with Watchdog(Stop(), lambda: hangs[0], ended.append):
        time.sleep(0.1)
        assert ended == []
        hangs[0] = "it does not go on"
        wait_until(lambda: ended, 5, "it is ended")
        time.sleep(0.1)
    assert ended == [1]
    assert "it does not go on: this process ends at once" in caplog.text


def test_a_stop_has_its_time_and_no_more():
    ended, stop = [], Stop()
    with Watchdog(stop, end=ended.append):
        began = time.monotonic()
        stop.requested = True
        wait_until(lambda: ended, 5, "it is ended")
        assert time.monotonic() - began >= watchdog.STOP_SECONDS
    ended.clear()
    with Watchdog(stop, end=ended.append):
        pass
    time.sleep(2 * watchdog.STOP_SECONDS)
    assert ended == [], "what has ended is not ended again"


def test_a_relay_hangs_when_its_step_takes_longer_than_all_it_may_wait_for(start_relay, settings):
    one = start_relay()
    one.step()
    assert one.stuck() is None
    one.beat = time.monotonic() - relay.FROZEN - settings.WORKER_STATEMENT_TIMEOUT_MS / 1000 + 5
    assert one.stuck() is None
    one.beat -= 6
    assert one.stuck().startswith("the relay has not come back for ")


HANGING = """
    import os, sys, time, django
    django.setup()
    from django.core.management import call_command
    from taskpulse import watchdog
    from tasks import relay
    relay.FROZEN = 1.0
    relay.Relay.publish_batch = lambda self: time.sleep(3600)
    call_command("relay_outbox")
"""


def test_a_standby_takes_over_from_a_relay_that_hangs(start_relay, committed_db, topic, tmp_path):
    own = {
        "TASKPULSE_WORKER_PORT": "0",
        "TASKPULSE_WORKER_STATEMENT_TIMEOUT_MS": "1000",
        "DJANGO_SETTINGS_MODULE": "taskpulse.settings",
    }
    with (tmp_path / "log").open("w") as log:
        hanging = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HANGING)], cwd=ROOT, env=os.environ | own, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: "this relay is the active one" in (tmp_path / "log").read_text(), 30, "it has the lock")
        standby = start_relay()
        assert not standby.step()
        add(("a", 1))
        assert hanging.wait(15) == 1
        until(standby.step)
        assert unpublished() == []
    finally:
        hanging.kill()
        hanging.wait()


def test_the_limit_of_a_statement_is_that_of_the_setting():
    code = textwrap.dedent("""
        import django
        from taskpulse import database
        database.set_process_command("consume_events")
        django.setup()
        from taskpulse import worker_database
        from django.db import connection
        worker_database.limit()
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            print(cursor.fetchone()[0], connection.connection.wait.args[-1])
    """)
    own = {"TASKPULSE_WORKER_STATEMENT_TIMEOUT_MS": "7000", "DJANGO_SETTINGS_MODULE": "taskpulse.settings"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["7s", "9.0"], done.stderr
