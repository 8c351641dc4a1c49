"""Several processes under one parent: one prefixed log, one orderly stop, and whatever dies is started again.

Everything runs in one thread: on Linux a child ends with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from taskpulse.worker import Backoff

# Seconds.
TICK = 0.1
STEADY_AFTER = 10.0  # a process that lived this long begins its waits anew
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
KILL_PATIENCE = 3.0
# A line without an end is cut here, so that no process can fill our memory.
LINE_BYTES = 65_536

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)


class PrefixedLog:
    """Writes `name | line`; in colour only on a terminal, and not if NO_COLOR is set (no-color.org)."""

    def __init__(self, stream=sys.stdout, width: int = 9):
        self._stream = stream
        self._width = width
        self._colours: dict[str, int] | None = {} if stream.isatty() and not os.environ.get("NO_COLOR") else None

    def line(self, name: str, text: str) -> None:
        prefix = f"{name:<{self._width}}|"
        if self._colours is not None:
            colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        self.plain(f"{prefix} {text}")

    def plain(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except BrokenPipeError:
            # Nobody reads any more; the service goes on.
            self._stream = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


@dataclass
class Program:
    """What to run. `start` takes Popen's arguments and returns the process; `stop_signal` asks it to end in order and
    `kill_signal` ends it at once."""

    name: str
    start: Callable[..., subprocess.Popen]
    stop_signal: int = signal.SIGTERM
    kill_signal: int = signal.SIGKILL
    process: subprocess.Popen | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    starts: int = field(default=0, init=False)
    # When to start it again, on the monotonic clock.
    due: float | None = field(default=None, init=False)
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_WAIT, LONGEST_WAIT), init=False)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def gave_up(self) -> bool:
        """It ended by itself the first time, so that another start would end as this one. What was killed starts again."""
        return self.starts == 1 and not self.alive and self.process.returncode >= 0

    def signal(self, number: int) -> None:
        """To the process and whatever it left in its group: the workers of a web server outlive it for a moment."""
        # Gone; or, on macOS, only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Supervisor:
    """`launch` programs, `pump` until `stop_requested`, then `stop` them group by group."""

    def __init__(self, log: PrefixedLog):
        self.log = log
        self.signals = 0
        self._programs: list[Program] = []
        self._selector = selectors.DefaultSelector()

    def listen(self) -> None:
        """Ctrl-C, SIGTERM and a closed terminal (unless nohup has us ignore that) ask for the stop; the second kills."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame) -> None:
        self.signals += 1

    @property
    def stop_requested(self) -> bool:
        return self.signals > 0

    def launch(self, program: Program, restart: bool = True) -> None:
        """Starts it in a session of its own, so that the terminal's Ctrl-C reaches us alone."""
        program.process = program.start(
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        program.started_at, program.due = time.monotonic(), None
        program.starts += 1
        os.set_blocking(program.process.stdout.fileno(), False)
        self._selector.register(program.process.stdout, selectors.EVENT_READ, (program.name, bytearray()))
        if restart and program not in self._programs:
            self._programs.append(program)

    def pump(self, seconds: float = TICK) -> None:
        """Passes on what the processes say for at most so long, and starts again what died."""
        self._read(seconds)
        self._revive_dead()

    def wait_for(self, condition: Callable[[], bool], seconds: float, needed: Iterable[Program] = ()) -> bool:
        """Pumps until `condition()`; False after so long, at a stop, or when a needed process has given up."""
        end = time.monotonic() + seconds
        while not condition():
            self._read(0.05)
            if self.stop_requested or time.monotonic() > end or any(program.gave_up for program in needed):
                return False
            self._revive_dead()
        return True

    def run_to_end(self, program: Program) -> int | None:
        """Runs it once; its exit status, or None if a stop was requested meanwhile (it is ended then)."""
        self.launch(program, restart=False)
        while program.alive and not self.stop_requested:
            self.pump(0.05)
        if program.alive:
            self._end([program], KILL_PATIENCE)
            return None
        self._read(0)
        return program.process.returncode

    def stop(self, programs: list[Program], patience: float) -> None:
        """Ends these, and starts them no more: asks, waits at most `patience` seconds, then kills. A second request to
        stop kills at once."""
        self._programs = [program for program in self._programs if program not in programs]
        self._end([program for program in programs if program.process is not None], patience)

    def _end(self, programs: list[Program], patience: float) -> None:
        asked = self.signals
        for program in programs:
            if program.alive:
                os.kill(program.process.pid, program.stop_signal)
        end = time.monotonic() + patience
        while any(program.alive for program in programs) and time.monotonic() < end and self.signals < max(2, asked):
            self._read(0.05)
        for program in programs:
            if program.alive:
                self.log.line("up", f"{program.name} does not end in time: killed")
                program.signal(program.kill_signal)
        end = time.monotonic() + KILL_PATIENCE
        while any(program.alive for program in programs) and time.monotonic() < end:
            self._read(0.05)
        for program in programs:
            program.signal(signal.SIGKILL)
        self._read(0)

    def _revive_dead(self) -> None:
        for program in self._programs:
            self._revive(program)

    def _revive(self, program: Program) -> None:
        if program.due is None and not program.alive:
            lived = time.monotonic() - program.started_at
            if lived > STEADY_AFTER:
                program.backoff.reset()
            program.signal(signal.SIGTERM)
            wait = program.backoff.next()
            program.due = time.monotonic() + wait
            self.log.line("up", f"{program.name} {_ending(program.process.returncode)}: started again in {wait:.1f} s")
        elif program.due is not None and program.due <= time.monotonic() and not self.stop_requested:
            self.launch(program)

    def _read(self, seconds: float) -> None:
        if not self._selector.get_map():
            time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            name, pending = key.data
            try:
                chunk = os.read(key.fd, 65_536)
            except BlockingIOError:
                continue
            pending += chunk
            *lines, rest = pending.split(b"\n")
            if not chunk or len(rest) > LINE_BYTES:
                lines, rest = ([*lines, rest] if rest else lines), b""
            pending[:] = rest
            for line in lines:
                self.log.line(name, line.decode(errors="replace").rstrip("\r"))
            if not chunk:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
