"""`make bench-stream`: the task list as a whole, as JSON Lines and as CSV, from a web role: rows a second and its memory.

    python -m tests.benchmarks.stream [--tasks 1000000]

A tenth of the tasks and all of them, each by a web role of its own, since the memory of a process that is looked at is its
highest since it began (`VmHWM`, proc(5)). Server, PostgreSQL and client share the machine; the client counts lines.
"""

import argparse
import http.client
import os
import time
from pathlib import Path

import psutil

from tests.benchmarks import database, machine, services, task_fill

FORMS = {"JSON Lines": "application/x-ndjson", "CSV": "text/csv"}
_PIECE = 262_144


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.stream")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}; nice {os.nice(0)}", flush=True)
    with database.server() as (url, kind), database.fresh_database(url):
        postgres, token = fill(options.tasks)
        print(f"{options.tasks:,} tasks on PostgreSQL ({kind})", flush=True)
        for form, accept in FORMS.items():
            for size in (options.tasks // 10, options.tasks):
                measure(size, form, accept, token, postgres)


def fill(tasks: int) -> tuple[psutil.Process | None, str]:
    """Makes so many tasks and one. The server's first process, where it is on this machine, and the token of a reader."""
    from django.contrib.auth.models import Group, User
    from django.db import connection

    from tasks.models import ApiToken

    team = task_fill.fill(tasks)
    reader = User.objects.get(pk=team.user_id)
    reader.groups.add(Group.objects.get(name="viewer"))
    _, token = ApiToken.issue(reader, "benchmark")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM tasks_task")  # as autovacuum does it meanwhile
    postgres = machine.postmaster(connection)
    connection.close()
    return postgres, token


def measure(tasks: int, form: str, accept: str, token: str, postgres: psutil.Process | None) -> None:
    port = services.free_port()
    with services.taskpulse(port) as server:
        read(port, "/api/tasks?limit=1000", accept, token)  # the code is there
        at_rest = max(highest(worker) for worker in server.children())
        before = machine.cpu_seconds(server), machine.cpu_seconds(postgres)
        began = time.monotonic()
        rows, size = read(port, f"/api/tasks?limit={tasks}", accept, token)
        seconds = time.monotonic() - began
        web, in_postgres = machine.cpu_seconds(server) - before[0], machine.cpu_seconds(postgres) - before[1]
        after = max(highest(worker) for worker in server.children())
    expected = tasks + (form == "CSV")
    if rows != expected:
        raise RuntimeError(f"{expected} lines were expected, {rows} came")
    print(
        f"{form:10} {tasks:>9,} tasks: {rows / seconds:>8,.0f} rows/s, {size / seconds / 1e6:5.1f} MB/s; "
        f"of processor a row: web role {web / rows * 1e6:.1f} µs, PostgreSQL {in_postgres / rows * 1e6:.1f} µs; "
        f"worker {at_rest:.0f} MB before, {after:.0f} MB at most",
        flush=True,
    )


def read(port: int, path: str, accept: str, token: str) -> tuple[int, int]:
    """Lines and bytes of an answer, to its end. Raises RuntimeError, and IncompleteRead where it is broken off."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    client.request("GET", path, headers={"Authorization": f"Bearer {token}", "Accept": accept})
    answer = client.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {answer.read()[:500]!r}")
    lines = size = 0
    while piece := answer.read(_PIECE):
        lines += piece.count(b"\n")
        size += len(piece)
    client.close()
    return lines, size


def highest(process: psutil.Process) -> float:
    """Megabytes that a process has had resident at most."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
