"""What verifying costs: `manage.py verify_audit` of a signed log with its tiles, by one process and by two, and its parts.

    python -m tests.benchmarks.verification [--entries 5000000]

As an auditor runs it, with the log's key and a checkpoint that was kept outside; its processor time and memory are those of its
children too, PostgreSQL's stand beside them. The parts' rates are of processor time in this process, so that other work on the
machine does not count: what one core does that has nothing else to do. The log is looked at when it has a tenth, two fifths
and all of its entries: memory is to be the same. What was seen is in bench-verify.json too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.benchmarks import database, machine

RESULT = Path(__file__).resolve().parent.parent.parent / "bench-verify.json"
JOBS = (1, 2)
ORIGIN = "taskpulse/audit"
_BATCH = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.verification")
    parser.add_argument("--entries", type=int, default=500_000)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
    with database.server() as (url, kind), database.fresh_database(url):
        found = run([options.entries // 10, options.entries * 2 // 5, options.entries], show)
        facts = {**machine.facts(), "postgresql": kind, **machine.server_facts()}
    RESULT.write_text(json.dumps({"machine": facts, **found}, indent=2) + "\n")
    print(f"details in {RESULT.name}")


def run(sizes: list[int], shown=lambda _: None) -> dict:
    """The parts, and what a verification takes at each size of the log, by each number of processes; `shown` gets each
    figure as soon as it is there. Raises RuntimeError where the log is not found sound."""
    from audit.signed_note import SigningKey
    from tests.signed_log import Log

    log, verifications = Log(SigningKey.generate(ORIGIN)), []
    for before, size in zip([0, *sizes], sizes, strict=False):
        began = time.monotonic()
        _grow(size - before)
        log.sign()
        shown({"entries": log.pinned, "made_in": round(time.monotonic() - began)})
        for jobs in JOBS:
            verifications.append(_verify(log, jobs))
            shown(verifications[-1])
    found = {**_parts(min(sizes[-1], 20_000)), "verifications": verifications}
    shown(found)
    return found


def show(one: dict) -> None:
    if "made_in" in one:
        print(f"{one['entries']:,} entries with tiles and a checkpoint, the last of them made in {one['made_in']} s", flush=True)
    elif "jobs" in one:
        print(
            f"{one['entries']:>9,} entries, --jobs {one['jobs']}: {one['seconds']:7.1f} s, {one['entries_a_second']:>7,} entries/s "
            f"| CPU {one['cpu_us']:.1f} µs an entry and PostgreSQL's {one['postgresql_cpu_us']:.1f}; at most {one['peak_mb']} MB",
            flush=True,
        )
    else:
        parts = f"leaf and tree {one['leaf_and_tree_a_second']:,}, all of an entry {one['recomputed_a_second']:,}"
        print(f"parts, entries a second of one core: {parts}", flush=True)


def _grow(count: int) -> None:
    """Entries of tasks created and changed once."""
    from tasks.models import Task
    from tests.recording import messages, record, waiting

    for start in range(0, count, _BATCH):
        made = Task.objects.bulk_create([Task(title=f"task {start + n}") for n in range(min(_BATCH, count - start) // 2)])
        Task.objects.filter(pk__in=[task.pk for task in made]).update(priority="high")
        record(messages(waiting()))


def _verify(log, jobs: int) -> dict:
    """By a process of its own."""
    from django.db import connection

    from tests.signed_log import execute

    ((note,),) = execute("SELECT note FROM audit_checkpoint WHERE size = %s", log.pinned)
    postgres = machine.postmaster(connection)
    with tempfile.NamedTemporaryFile() as held:
        Path(held.name).write_bytes(note)
        command = [
            sys.executable, "manage.py", "verify_audit", "--key", str(log.key.verifier), "--checkpoint", held.name, "--no-topic",
            "--jobs", str(jobs), "--json",
        ]  # fmt: skip
        before, began = machine.cpu_seconds(postgres), time.monotonic()
        with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            cpu, peak = _watch(psutil.Process(process.pid))
            output.seek(0)
            if process.wait() != 0:
                raise RuntimeError(f"the log is not found sound: {output.read()[-2000:].decode(errors='replace')}")
    seconds, in_postgres = time.monotonic() - began, machine.cpu_seconds(postgres) - before
    return {
        "entries": log.pinned, "jobs": jobs, "seconds": round(seconds, 2), "entries_a_second": round(log.pinned / seconds),
        "cpu_us": round(cpu / log.pinned * 1e6, 1), "postgresql_cpu_us": round(in_postgres / log.pinned * 1e6, 1), "peak_mb": peak,
    }  # fmt: skip


def _watch(process: psutil.Process) -> tuple[float, int]:
    """Until it ends: processor time, and megabytes, of it and its children: the sum of the most that each had resident (`VmHWM`,
    proc(5)), so what they share counts for each."""
    cpu, highest = 0.0, {}
    while True:
        try:
            for one in [process, *process.children(recursive=True)]:
                status = Path(f"/proc/{one.pid}/status").read_text()  # without memory once it has ended
                for line in status.splitlines():
                    if line.startswith("VmHWM:"):
                        highest[one.pid] = int(line.split()[1])
            cpu = max(cpu, machine.cpu_seconds(process))
            if process.status() == psutil.STATUS_ZOMBIE:
                break
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            pass
        if not process.is_running():
            break
        time.sleep(0.05)
    return cpu, sum(highest.values()) // 1024


def _parts(count: int) -> dict[str, int]:
    from audit.verification import entries
    from audit.verification.reading import read_only

    with read_only() as session:
        rows = entries.read(session, 1, count)
        return {
            "leaf_and_tree_a_second": _rate(lambda: _leaf_and_tree(rows), len(rows)),
            "recomputed_a_second": _rate(lambda: list(entries.check(session, ORIGIN, rows, Counter())), len(rows)),
        }


def _leaf_and_tree(rows: list[tuple]) -> None:
    from audit.merkle import Edge, leaf_hash
    from audit.verification import entries

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


if __name__ == "__main__":
    main()
