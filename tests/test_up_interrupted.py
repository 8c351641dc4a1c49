"""`manage.py up` whose stores are killed before it is ready: it starts them again and ends what it began."""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from taskpulse.supervisor import PrefixedLog, Program, Supervisor
from tests.running_up import RunningUp
from tests.test_up import on_its_own_broker


@pytest.fixture
def starting():
    place = Path(tempfile.mkdtemp(prefix="taskpulse-up-"))
    running = RunningUp(place / "home")
    yield running
    if running.process.poll() is None:
        running.stop()
    shutil.rmtree(place, ignore_errors=True)


class Killer(threading.Thread):
    """Kills each child of that role, `times` times, as soon as `trigger` is in the arguments of a child of `up`."""

    def __init__(self, up: RunningUp, role: str, trigger: str, times: int = 1):
        super().__init__(daemon=True)
        self._up, self._role, self._trigger, self._times = up, role, trigger, times
        self.killed: list[int] = []

    def run(self) -> None:
        end = time.monotonic() + 30
        while len(self.killed) < self._times and time.monotonic() < end:
            self._look()
            time.sleep(0.01)

    def _look(self) -> None:
        try:
            children = psutil.Process(self._up.process.pid).children()
            victim = self._up.role(self._role)
            if victim.pid not in self.killed and any(self._trigger in " ".join(child.cmdline()) for child in children):
                victim.kill()
                self.killed.append(victim.pid)
        except (AttributeError, StopIteration, psutil.Error):
            pass  # not there yet


@pytest.mark.parametrize(
    ("role", "trigger", "times"),
    [
        ("postgres", "/bin/postgres", 2),
        pytest.param("broker", "taskpulse.embedded.broker", 2, marks=on_its_own_broker),
        ("postgres", "prepare_installation", 1),
    ],
)
def test_a_store_that_is_killed_while_up_starts_is_started_again(starting, role, trigger, times):
    killer = Killer(starting, role, trigger, times)
    killer.start()
    starting.start()
    killer.join()
    assert len(killer.killed) == times
    assert starting.log.count(f"{role} was ended by SIGKILL: started again") == times
    starting.change_reaches_the_log()


def test_a_session_that_ends_while_up_prepares_is_opened_again(starting):
    """PostgreSQL ends all sessions when one of its processes is killed."""
    backends = []

    def kill() -> None:
        end = time.monotonic() + 30
        while not backends and time.monotonic() < end:
            time.sleep(0.01)
            try:
                sessions = starting.role("postgres").children()
                setup = [one for one in sessions if "taskpulse" in one.cmdline()[0] and "idle in transaction" in one.cmdline()[0]]
                for session in setup[:1]:
                    session.kill()
                    backends.append(session.pid)
            except (AttributeError, IndexError, StopIteration, psutil.Error):
                pass  # not there yet

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    starting.start()
    killer.join()
    assert backends
    assert "the database failed, trying again" in starting.log
    starting.change_reaches_the_log()


def test_what_ends_by_itself_at_its_first_start_is_not_waited_for():
    supervisor = Supervisor(PrefixedLog())
    program = Program("store", lambda **popen: subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], **popen))
    supervisor.launch(program)
    began = time.monotonic()
    assert not supervisor.wait_for(lambda: False, 30, needed=[program])
    assert time.monotonic() - began < 20
    assert program.gave_up
