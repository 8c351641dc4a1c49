"""What verifying costs: processor time an entry of its parts, all of a verification by one process, and its memory.

Rates are of processor time, so that other work on the machine does not count: what one core does that has nothing else
to do. PostgreSQL's own work comes on top and is in `seconds`.
"""

import resource
import time

from django.db import connection

from audit.merkle import Edge, leaf_hash
from audit.verification import entries
from audit.verification.reading import read_only
from audit.verification.verifier import Options, Verifier
from tasks.models import Task
from tests.recording import messages, record, waiting

_BATCH = 2_000
ORIGIN = "taskpulse/audit"


def run(count: int) -> dict:
    """`count` entries of tasks created and changed once; a smaller log first, to see what memory depends on."""
    _grow(count // 4)
    quarter = _verify()
    _grow(count - count // 4)
    whole = _verify()
    with read_only() as session:
        rows = entries.read(session, 1, min(count, 20_000))
        return {
            "entries": whole["entries"],
            "leaf_and_tree_a_second": _rate(lambda: _leaf_and_tree(rows), len(rows)),
            "recomputed_a_second": _rate(lambda: list(entries.check(session, ORIGIN, rows)), len(rows)),
            "seconds": whole["seconds"],
            "cpu_seconds": whole["cpu_seconds"],
            "peak_mb": {quarter["entries"]: quarter["peak_mb"], whole["entries"]: whole["peak_mb"]},
        }


def _grow(count: int) -> None:
    for start in range(0, count, _BATCH):
        made = Task.objects.bulk_create([Task(title=f"task {start + n}") for n in range(min(_BATCH, count - start) // 2)])
        Task.objects.filter(pk__in=[task.pk for task in made]).update(priority="high")
        record(messages(waiting()))


def _verify() -> dict:
    cpu = time.process_time()
    report = Verifier([], [], Options()).run()
    if report.tampered:
        raise RuntimeError(f"the log is not sound: {report.first_bad}")
    return {
        "entries": report.entries,
        "seconds": round(report.seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _leaf_and_tree(rows: list[tuple]) -> None:
    edge = Edge()
    for row in rows:
        edge.append(leaf_hash(entries.record(ORIGIN, row)))


def _rate(work, count: int) -> int:
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return round(count / best)


def clear() -> None:
    with connection.cursor() as cursor:
        for table in ("task_audit_log", "audit_tile", "audit_bundle", "tasks_task", "tasks_outbox"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            cursor.execute(f"DELETE FROM {table}")
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
        cursor.execute("UPDATE audit_log SET size = 0, edge = ''")
