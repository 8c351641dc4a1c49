"""How long a change takes to be an audit entry at 200 writes a second, all roles running as `manage.py up` runs them.

Measured from `occurred_at`, which the database sets within the change's transaction, to the first look at the log that
shows the entry (by the server's clock, a look every 2 ms): more than the time from commit to entry, never less.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from django.conf import settings
from django.db import connection

from tests.benchmarks import load, services
from tests.benchmarks.api import DESCRIPTION, numbered
from tests.benchmarks.machine import percentile, resident_mb

WRITES_A_SECOND = 200
CONNECTIONS = 8
ROLES = {"web worker": "gunicorn", "relay": "relay_outbox", "consumer": "consume_events"}


@contextmanager
def all_roles(port: int):
    """`manage.py up` on the benchmark's database; with its own topic and group where KAFKA_BOOTSTRAP_SERVERS is set."""
    own = f"taskpulse-bench-{os.getpid()}"
    environment = os.environ | {"PORT": str(port), "KAFKA_TOPIC": own, "KAFKA_AUDIT_GROUP": own}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up"], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        services.await_port(process, port, "/healthz")
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(40)


class Watcher(threading.Thread):
    """Notes for each new entry how long ago its change was, in milliseconds."""

    def __init__(self, database_url: str, after: int):
        super().__init__(daemon=True)
        self._url, self._seq = database_url, after
        self.latencies: list[float] = []
        self._done = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as session:
            while not self._done.wait(0.002):
                for seq, milliseconds in session.execute(
                    "SELECT seq, 1000 * extract(epoch FROM statement_timestamp() - occurred_at)::float8 FROM task_audit_log "
                    "WHERE seq > %s ORDER BY seq",
                    [self._seq],
                    prepare=True,
                ):
                    self.latencies.append(milliseconds)
                    self._seq = seq

    def stop_at(self, count: int, patience: float) -> None:
        end = time.monotonic() + patience
        while len(self.latencies) < count and time.monotonic() < end:
            time.sleep(0.05)
        self._done.set()
        self.join()


def last_seq() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(seq), 0) FROM task_audit_log")
        return cursor.fetchone()[0]


def writes(token: str):
    """Creations: they have the largest events."""
    numbers = itertools.count()
    body = {"title": f"Refund order {load.MARKER}", "description": DESCRIPTION, "priority": "high", "labels": ["billing"]}
    create = numbered(load.request("POST", "/api/tasks", token, json.dumps(body).encode()))
    return lambda: create % next(numbers)


def run(database_url: str, seconds: float) -> dict:
    port = services.free_port()
    with all_roles(port) as supervisor:
        token = json.loads((Path(settings.TASKPULSE_HOME) / "credentials.json").read_text())["token"]
        next_request = writes(token)
        before = last_seq()
        load.drive_paced(port, next_request, CONNECTIONS, WRITES_A_SECOND, 3)
        time.sleep(2)
        watcher = Watcher(database_url, last_seq())
        warm = last_seq() - before
        watcher.start()
        run = load.drive_paced(port, next_request, CONNECTIONS, WRITES_A_SECOND, seconds)
        watcher.stop_at(run.requests, patience=30)
        memory = {name: [resident_mb(process) for process in _processes(supervisor, word)] for name, word in ROLES.items()}
    latencies = sorted(watcher.latencies)
    return {
        "kafka": settings.KAFKA_BOOTSTRAP_SERVERS or "embedded",
        "writes_a_second": round(run.rate),
        "seconds": seconds,
        "acknowledged": run.requests,
        "recorded": len(latencies),
        "warm_up_recorded": warm,
        "audit_ms": {name: round(percentile(latencies, share), 1) for name, share in SHARES.items()},
        "response_ms": {name: round(percentile(run.latencies, share), 1) for name, share in SHARES.items()},
        "memory_mb": memory,
    }


SHARES = {"p50": 0.5, "p99": 0.99, "most": 1.0}


def _processes(supervisor: psutil.Process, word: str) -> list[psutil.Process]:
    """The processes of a role; of gunicorn the workers, not their master."""
    found = [process for process in supervisor.children(recursive=True) if any(word in part for part in process.cmdline())]
    return [process for process in found if process.ppid() in {other.pid for other in found}] or found
