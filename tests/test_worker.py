"""What the long-running roles share: a stop is a flag, a second signal ends the process, waits are capped and random."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from taskpulse.worker import Backoff, Stop


def test_a_signal_sets_the_flag_and_nothing_else():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = Stop().listen()
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_the_process_at_once(first, second):
    code = "import time; from taskpulse.worker import Stop; Stop().listen(); print('ready', flush=True)\nwhile True: time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(first)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(5) == 128 + second


def test_sleep_ends_with_its_time_or_with_a_stop():
    stop = Stop()
    started = time.monotonic()
    stop.sleep(0.3)
    assert 0.3 <= time.monotonic() - started < 1
    threading.Timer(0.1, lambda: setattr(stop, "requested", True)).start()
    started = time.monotonic()
    stop.sleep(60)
    assert time.monotonic() - started < 1


def test_backoff_doubles_up_to_its_cap_is_random_and_begins_anew():
    rounds = []
    backoff = Backoff(first=0.1, most=1.0)
    for _ in range(50):
        rounds.append([backoff.next() for _ in range(8)])
        assert backoff.failures == 8
        backoff.reset()
        assert backoff.failures == 0
    for step, ceiling in enumerate([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]):
        waits = [waits[step] for waits in rounds]
        assert all(ceiling / 2 <= wait <= ceiling for wait in waits)
        assert len(set(waits)) > 40


def test_backoff_stands_a_very_long_outage():
    backoff = Backoff(first=0.1, most=5.0)
    backoff.failures = 10**9
    assert backoff.next() <= 5.0
