"""A `manage.py up` in a directory of its own, as a person would run it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import psutil
import psycopg

ROOT = Path(__file__).resolve().parent.parent
# How the processes are told apart: by their command lines.
ROLES = {
    "web": "gunicorn",
    "relay": "relay_outbox",
    "consumer": "consume_events",
    "broker": "taskpulse.embedded.broker",
    "postgres": "/bin/postgres",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing is named but what a test says, and Kafka if the suite runs on one."""
    unnamed = ("DATABASE_URL", "DB_HOST", "SECRET_KEY", "PORT", "TASKPULSE_HOME", "TASKPULSE_MODE", "DJANGO_SETTINGS_MODULE")
    inherited = {name: value for name, value in os.environ.items() if name not in unnamed}
    return inherited | {"TASKPULSE_HOME": str(home), "PYTHONWARNINGS": "ignore"} | more


def manage(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    """`manage.py …` as in a second terminal."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


class RunningUp:
    def __init__(self, home: Path):
        self.home = home
        self.port = free_port()
        self.names = {name: f"up-{uuid.uuid4().hex[:8]}" for name in ("KAFKA_TOPIC", "KAFKA_AUDIT_GROUP", "KAFKA_CHECKPOINT_TOPIC")}
        self.process: subprocess.Popen | None = None
        self.log_path = home.parent / "up.log"

    def ensure_started(self) -> None:
        if self.process is None or self.process.poll() is not None:
            self.start()

    def start(self) -> None:
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"], cwd=ROOT, env=environment(self.home, PORT=str(self.port), **self.names),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + 60
        while " ready in " not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, f"up is not ready within 60 s:\n{self.log}"
            time.sleep(0.05)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def credentials(self) -> dict:
        return json.loads((self.home / "credentials.json").read_text())

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def role(self, name: str) -> psutil.Process:
        """The process of a role: the supervisor's own child. Raises StopIteration while there is none."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if ROLES[name] in " ".join(_arguments(child)))

    def call(self, method: str, path: str, body: dict | None = None) -> tuple[int, object]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.credentials['token']}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def as_owner(self) -> psycopg.Connection:
        """As a person with the installation's directory at hand; each statement for itself."""
        return psycopg.connect(json.loads((self.home / "environment.json").read_text())["DATABASE_URL"], autocommit=True)

    def change_reaches_the_log(self, seconds: float = 30) -> None:
        """Creates a task (again and again while the service is not whole) and waits for its entry."""

        def created():
            try:
                status, self._task = self.call("POST", "/api/tasks", {"title": "after the fault"})
            except OSError:
                return False
            return status == 201

        wait_until(created, seconds, "a task can be created")
        wait_until(lambda: self.call("GET", f"/api/tasks/{self._task['id']}/history")[1], seconds, "its entry is in the log")

    def press_ctrl_c(self) -> None:
        """As a terminal does: to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def stop(self) -> int:
        self.press_ctrl_c()
        return self.process.wait(25)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_until(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
