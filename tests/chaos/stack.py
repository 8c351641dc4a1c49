"""The stack under test: `manage.py up`, a second relay and a second consumer behind a proxy, and the broker's switches."""

import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
from confluent_kafka.admin import AdminClient, NewPartitions

from taskpulse.embedded import unprivileged
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT = 90.0
# What the command line of each role contains.
_COMMANDS = {
    "relay": "relay_outbox",
    "consumer": "consume_events",
    "broker": "taskpulse.embedded.broker",
    "web": "gunicorn",
}


class Kafka:
    """Apache Kafka. With `command` ("SCRIPT DIR PORT", the variable CHAOS_KAFKA) the driver may stop it:
    `SCRIPT start DIR PORT`, `SCRIPT stop DIR`, `SCRIPT kill DIR` and `SCRIPT wipe DIR` must do what they say. Without,
    it only deletes the topic and adds partitions to it."""

    def __init__(self, bootstrap_servers: str, command: str = ""):
        self.bootstrap_servers = bootstrap_servers
        self.may_stop = bool(command)
        if command:
            self._script, self._directory, self._port = shlex.split(command)
            self.bootstrap_servers = f"127.0.0.1:{self._port}"

    @classmethod
    def from_environment(cls) -> "Kafka | None":
        """None: the embedded broker."""
        command, servers = os.environ.get("CHAOS_KAFKA", ""), os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
        return cls(servers, command) if command or servers else None

    @functools.cached_property
    def _admin(self) -> AdminClient:
        # Kept: a client that is dropped takes its unanswered requests with it.
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "socket.timeout.ms": 5_000})

    def delete_topic(self, topic: str) -> None:
        """All messages, offsets and the topic's id are gone. Raises KafkaException."""
        self._admin.delete_topics([topic], operation_timeout=5, request_timeout=5)[topic].result(10)

    def add_partition(self, topic: str) -> int:
        """From now on keys go to other partitions. Returns how many there are. Raises KafkaException."""
        client = self._admin
        count = len(client.list_topics(topic, timeout=5).topics[topic].partitions) + 1
        client.create_partitions([NewPartitions(topic, count)], request_timeout=5)[topic].result(10)
        return count

    def start(self) -> None:
        self._run("start", self._port)

    def stop(self) -> None:
        self._run("stop")

    def kill(self) -> None:
        self._run("kill")

    def wipe(self) -> None:
        self._run("wipe")

    def _run(self, verb: str, *arguments: str) -> None:
        subprocess.run([self._script, verb, self._directory, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=120)


class Extra(threading.Thread):
    """A role beside those of `manage.py up`, started again whenever it ends."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], log):
        super().__init__(name=name, daemon=True)
        self.arguments, self._environment, self._log = arguments, environment, log
        self._stopping = threading.Event()
        self.process: subprocess.Popen | None = None

    def run(self) -> None:
        while not self._stopping.is_set():
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", *self.arguments],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
                preexec_fn=unprivileged.preparation(None, []),
            )  # fmt: skip
            self.process.wait()
            self._stopping.wait(0.2)

    def stop(self) -> None:
        self._stopping.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
        self.join(10)
        if self.is_alive():
            self.process.kill()


class Stack:
    def __init__(self, home: Path, name: str, kafka: Kafka | None):
        self.home, self.kafka = home, kafka
        self.topic = f"task-events-{name}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("DATABASE_", "DB_", "KAFKA_", "SECRET_KEY", "TASKPULSE_"))
        }
        self._environment.pop("DJANGO_SETTINGS_MODULE", None)
        self._environment |= {
            "TASKPULSE_HOME": str(home),
            "PORT": str(self._port),
            "KAFKA_TOPIC": self.topic,
            "KAFKA_AUDIT_GROUP": f"audit-{name}",
            "KAFKA_CHECKPOINT_TOPIC": f"checkpoints-{name}",
            # Many checkpoints, so that faults hit the making of them.
            "TASKPULSE_CHECKPOINT_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
            "TASKPULSE_WORKER_PORT": "0",
        }
        if kafka is not None:
            self._environment["KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
        self._log = (home / "chaos.log").open("ab", buffering=0)
        self._extras: list[Extra] = []
        self.up: subprocess.Popen | None = None
        self.proxy: Proxy | None = None

    def start(self) -> None:
        """Returns when the API answers. Raises RuntimeError when it does not."""
        if self.kafka is not None and self.kafka.may_stop:
            self.kafka.start()
        self.start_up()
        self._wait_until_ready()
        # From here on this process reads the same settings as the stack.
        os.environ.update(
            {name: self._environment[name] for name in self._environment if name.startswith(("TASKPULSE_", "KAFKA_"))}
        )
        for name in ("DATABASE_URL", "DB_HOST", "SECRET_KEY"):
            os.environ.pop(name, None)
        self.proxy = Proxy(Path(parse_qs(urlsplit(self.database_url).query)["host"][0]) / ".s.PGSQL.5432")
        parts = urlsplit(self.database_url)
        proxied = f"postgresql://{parts.username}@127.0.0.1:{self.proxy.port}{parts.path}"
        for arguments in (["relay_outbox"], ["consume_events", "audit"]):
            extra = Extra(arguments[0], arguments, self._environment | {"DATABASE_URL": proxied}, self._log)
            extra.start()
            self._extras.append(extra)

    def start_up(self) -> None:
        """To be called by the main thread, whose death ends it."""
        self.up = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            preexec_fn=unprivileged.preparation(None, []),
        )  # fmt: skip

    def kill_up(self) -> None:
        """The supervisor ends without a word, and with it all that it started."""
        self.up.kill()
        self.up.wait()
        self.up = None

    def check_up(self) -> None:
        """Raises RuntimeError when `manage.py up` has ended though nobody killed it."""
        if self.up is not None and self.up.poll() is not None:
            raise RuntimeError(f"`manage.py up` ended by itself with status {self.up.returncode}; {self._last_lines()}")

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            if self.up.poll() is not None:
                raise RuntimeError(f"`manage.py up` ended with status {self.up.returncode}; {self._last_lines()}")
            if (self.home / "credentials.json").exists() and self._is_ready():
                return
            time.sleep(0.1)
        raise RuntimeError(f"not ready within {START_TIMEOUT:.0f} s; see {self._log.name}")

    def _last_lines(self) -> str:
        """What CI shows: the log itself goes with the machine."""
        with open(self._log.name, errors="replace") as log:
            return f"the end of {self._log.name}:\n{''.join(deque(log, 40))}"

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def credentials(self) -> dict:
        return json.loads((self.home / "credentials.json").read_text())

    @property
    def database_url(self) -> str:
        return json.loads((self.home / "environment.json").read_text())["DATABASE_URL"]

    def bootstrap_servers(self) -> str:
        if self.kafka is not None:
            return self.kafka.bootstrap_servers
        return json.loads((self.home / "broker.json").read_text())["bootstrap_servers"]

    def processes(self, role: str) -> list[psutil.Process]:
        """Those that live: relay, consumer, broker, web master, web worker, postmaster, backend."""
        below = _children(psutil.Process(self.up.pid)) if self.up is not None else []
        if role in ("postmaster", "backend"):
            masters = [process for process in below if "bin/postgres" in _command(process)]
            return masters if role == "postmaster" else [p for master in masters for p in _children(master) if _is_backend(p)]
        if role in ("web master", "web worker"):
            masters = [process for process in below if _COMMANDS["web"] in _command(process)]
            return masters if role == "web master" else [child for master in masters for child in _children(master)]
        own = [extra.process.pid for extra in self._extras if extra.process is not None and _COMMANDS[role] in extra.arguments]
        found = [process for process in below if _COMMANDS[role] in _command(process)]
        return found + [
            process for process in _children(psutil.Process()) if process.pid in own and _COMMANDS[role] in _command(process)
        ]

    def stop(self) -> None:
        for extra in self._extras:
            extra.stop()
        if self.up is not None and self.up.poll() is None:
            self.up.terminate()
            try:
                self.up.wait(40)
            except subprocess.TimeoutExpired:
                self.up.kill()
        if self.proxy is not None:
            self.proxy.close()
        self._log.close()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return ""


def _is_backend(process: psutil.Process) -> bool:
    # A backend's title is "postgres: ROLE DATABASE ..."; PostgreSQL's own processes have other names there.
    return _command(process).startswith("postgres: postgres ")
