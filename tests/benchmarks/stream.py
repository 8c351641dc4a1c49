"""`make bench-stream`: the task list as a whole, as JSON Lines and as CSV, from a web role: rows and bytes a second, its memory.

    python -m tests.benchmarks.stream [--tasks 1000000]

Of two kinds: short tasks, of a few words, and long ones, as people write them (`tests.benchmarks.task_fill`). A tenth of the
tasks and all of them, and all of them by priority, an order of three parts that are read one after the other. Each by a web role
of its own, since the memory of a process that is looked at is its highest since it began (`VmHWM`, proc(5)). Server, PostgreSQL
and client share the machine; the client counts lines. What was seen is in bench-stream.json too.
"""

import argparse
import http.client
import json
import os
import time
from pathlib import Path

import psutil

from tests.benchmarks import database, machine, services, task_fill

RESULT = Path(__file__).resolve().parent.parent.parent / "bench-stream.json"
TEXTS = {"short": task_fill.SHORT, "long": task_fill.LONG}
FORMS = {"JSON Lines": "application/x-ndjson", "CSV": "text/csv"}
PARTS = "ordering=-priority"
_PIECE = 262_144


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.stream")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    options = parser.parse_args()
    load, found = os.getloadavg()[0], []
    print(f"load before: {load:.1f}; nice {os.nice(0)}", flush=True)
    with database.server() as (url, kind), database.fresh_database(url):
        for text in TEXTS:
            postgres, token = fill(options.tasks, text)
            print(f"{options.tasks:,} {text} tasks on PostgreSQL ({kind})\n{_HEADS}", flush=True)
            for form in FORMS:
                for size, order in ((options.tasks // 10, ""), (options.tasks, ""), (options.tasks, PARTS)):
                    found.append({"text": text, "form": form, **measure(size, order, FORMS[form], token, postgres)})
                    show(found[-1])
        facts = {**machine.facts(), "postgresql": kind, "load_before": round(load, 2), "nice": os.nice(0)}
    RESULT.write_text(json.dumps({"machine": facts, "streams": found}, indent=2) + "\n")
    print(f"details in {RESULT.name}")


def fill(tasks: int, text: str) -> tuple[psutil.Process | None, str]:
    """Makes so many tasks and one, instead of those that there were. The server's first process, where it is on this machine,
    and the token of a reader."""
    from django.contrib.auth.models import Group, User
    from django.db import connection

    from tasks.models import ApiToken

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_task DISABLE TRIGGER USER")
        cursor.execute("DELETE FROM tasks_search; DELETE FROM tasks_task")
        cursor.execute("ALTER TABLE tasks_task ENABLE TRIGGER USER")
        cursor.execute("VACUUM FULL tasks_task, tasks_search")
    team = task_fill.fill(tasks, TEXTS[text], around=False)
    reader = User.objects.get(pk=team.user_id)
    reader.groups.add(Group.objects.get(name="viewer"))
    _, token = ApiToken.issue(reader, f"benchmark of {text} tasks")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM tasks_task")  # as autovacuum does it meanwhile
    postgres = machine.postmaster(connection)
    connection.close()
    return postgres, token


_COLUMNS = {
    "rows/s": ("rows_a_second", 8), "bytes/row": ("bytes_a_row", 10), "MB/s": ("mb_a_second", 7),
    "µs of CPU a row: web": ("web_us", 21), "PostgreSQL": ("postgresql_us", 11),
    "worker MB before": ("mb_before", 17), "at most": ("mb_at_most", 8),
}  # fmt: skip
_HEADS = f"{'':10} {'tasks':>9} {'order':>12}" + "".join(f"{head:>{width}}" for head, (_, width) in _COLUMNS.items())


def show(one: dict) -> None:
    values = "".join(f"{one[name]:>{width},}" for name, width in _COLUMNS.values())
    print(f"{one['form']:10} {one['tasks']:>9,} {'by priority' if one['order'] else 'newest first':>12}{values}", flush=True)


def measure(tasks: int, order: str, accept: str, token: str, postgres: psutil.Process | None) -> dict:
    """Raises RuntimeError where another number of lines came than was asked for."""
    port = services.free_port()
    with services.taskpulse(port) as server:
        read(port, f"/api/tasks?limit=1000&{order}".rstrip("&"), accept, token)  # the code is there
        at_rest = max(highest(worker) for worker in server.children())
        before = machine.cpu_seconds(server), machine.cpu_seconds(postgres)
        began = time.monotonic()
        rows, size = read(port, f"/api/tasks?limit={tasks}&{order}".rstrip("&"), accept, token)
        seconds = time.monotonic() - began
        web, in_postgres = machine.cpu_seconds(server) - before[0], machine.cpu_seconds(postgres) - before[1]
        after = max(highest(worker) for worker in server.children())
    expected = tasks + (accept == FORMS["CSV"])
    if rows != expected:
        raise RuntimeError(f"{expected} lines were expected, {rows} came")
    return {
        "tasks": tasks, "order": order, "rows_a_second": round(rows / seconds), "bytes_a_row": round(size / rows),
        "mb_a_second": round(size / seconds / 1e6, 1), "web_us": round(web / rows * 1e6, 1),
        "postgresql_us": round(in_postgres / rows * 1e6, 1), "mb_before": round(at_rest, 1), "mb_at_most": round(after, 1),
    }  # fmt: skip


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
