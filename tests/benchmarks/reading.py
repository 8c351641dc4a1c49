"""`make bench-reading`: what a search of a large audit log takes, by which indexes, and what each index costs the recorder.

    python -m tests.benchmarks.reading [--entries 3000000] [--plans]

`make bench-reading ENTRIES=10000000 ARGS=--plans` is the size of a full partition, some 15 GB. PostgreSQL makes the entries in
a database of the benchmark's own, with people who act all the time, one who acts seldom, one who stopped long ago, and a day on
which Kafka was away. What was seen is in bench-reading.json too.
"""

import argparse
import json
import statistics
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.benchmarks import database, machine

RESULT = Path(__file__).resolve().parent.parent.parent / "bench-reading.json"

START = datetime(2026, 1, 1, tzinfo=UTC)
# Entry n occurred n seconds after START; of one task there are 20, and the first task has one in a hundred of all.
_FILL = """
INSERT INTO task_audit_log
SELECT n + %(offset)s, uuidv7(n * interval '1 second' - (now() - timestamptz '2026-01-01 00:00Z')), kind, 'task', task::text, n,
  task, actor, 'name ' || actor, 'user', 'req-' || n / 3,
  jsonb_build_object('specversion', '1.0', 'source', '/taskpulse/tasks', 'subject', 'task/' || task, 'type', kind, 'reason', null,
    'data', jsonb_build_object('nonce', md5(n::text), 'changes', jsonb_build_object(
        (ARRAY['title', 'description', 'status', 'labels', 'due_at'])[1 + n %% 5], jsonb_build_object('from', 'a', 'to', 'b')),
      'task', jsonb_build_object('id', task, 'title', 'Refund order ' || n, 'description', repeat('lorem ipsum ', 30),
        'version', n, 'status', 'pending', 'labels', jsonb_build_array('billing'),
        'created_by', jsonb_build_object('id', actor, 'name', 'ana')))),
  occurred, CASE WHEN occurred < timestamptz '2026-01-03 00:00Z' AND occurred >= timestamptz '2026-01-02 00:00Z'
    THEN timestamptz '2026-01-03 00:00Z' + (n %% 86400) * interval '500 microseconds'
    ELSE occurred + interval '40 milliseconds' END,
  'task-events', 0, n, sha256(n::text::bytea), sha256(n::text::bytea)
FROM (
  SELECT n, timestamptz '2026-01-01 00:00Z' + n * interval '1 second' AS occurred,
    CASE WHEN n %% 100 = 7 THEN '00000000-0000-7000-8000-000000000000'::uuid
      ELSE md5((n %% (%(entries)s::bigint / 20))::text)::uuid END AS task,
    CASE WHEN n %% 500000 = 499999 THEN '4001' WHEN n < %(entries)s::bigint / 50 THEN '4002'
      WHEN n %% 2 = 0 THEN '1' ELSE (2 + n %% 997)::text END AS actor,
    CASE WHEN n %% 20 = 1 THEN 'task.created' WHEN n %% 5000 = 0 THEN 'task.deleted' ELSE 'task.updated' END AS kind
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
) made
"""
_CHUNK = 100_000
_PARTITION, _ROOM = 10_000_000, 1_000_000
_BUSY_TASK = uuid.UUID("00000000-0000-7000-8000-000000000000")
_INDEXES = {
    "task_audit_log_actor": "(actor_id, seq)",
    "task_audit_log_late": "(occurred_at) WHERE processed_at - occurred_at >= interval '1 minute'",
    "task_audit_log_late_seq": "(seq) WHERE processed_at - occurred_at >= interval '1 minute'",
    "task_audit_log_task": "(task_id, seq)",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reading")
    parser.add_argument("--entries", type=int, default=3_000_000)
    parser.add_argument("--plans", action="store_true", help="the plan of each statement too")
    parser.add_argument("--rounds", type=int, default=5, help="of the recorder with and without each index; 0: none")
    options = parser.parse_args()
    with database.server() as (url, kind), database.fresh_database(url):
        seconds = fill(options.entries)
        print(f"{options.entries:,} entries made in {seconds:.0f} s on PostgreSQL ({kind}); {sizes()}\n", flush=True)
        found = {"entries": options.entries, "machine": {**machine.facts(), "postgresql": kind}, "indexes": sizes()}
        found["searches"] = read(options.entries, options.plans)
        found["recorder_slower_percent"] = {}
        for index, change in cost_of_indexes(options.entries, options.rounds).items():
            found["recorder_slower_percent"][index] = round(change, 1)
            print(f"{index}: the recorder is {change:+.1f} % slower with it", flush=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(f"details in {RESULT.name}")


def offset(entries: int) -> int:
    """Where `seq` begins, so that the last partition holds as many as it can with room for what the recorder adds: its cost is
    that of large indexes."""
    full = _PARTITION - _ROOM
    return 0 if entries <= full else (full - entries) % _PARTITION


def fill(entries: int) -> float:
    from django.db import connection

    began = time.monotonic()
    before = offset(entries)
    with connection.cursor() as cursor:
        cursor.execute("SELECT audit_ensure_partition(%s)", [before + entries + _ROOM])
        for first in range(1, entries + 1, _CHUNK):
            chunk = {"entries": entries, "offset": before, "first": first, "last": min(first + _CHUNK - 1, entries)}
            cursor.execute(_FILL, chunk)
        cursor.execute("VACUUM (ANALYZE) task_audit_log")  # as autovacuum does it meanwhile
    return time.monotonic() - began


def sizes() -> str:
    """Of each index, over the partitions."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(p.inhparent::regclass::text, 'event_id'), pg_size_pretty(sum(pg_relation_size(i.indexrelid))) "
            "FROM pg_inherits t JOIN pg_index i ON i.indrelid = t.inhrelid LEFT JOIN pg_inherits p ON p.inhrelid = i.indexrelid "
            "WHERE t.inhparent = 'task_audit_log'::regclass GROUP BY 1 ORDER BY sum(pg_relation_size(i.indexrelid)) DESC"
        )
        return ", ".join(f"{name.removeprefix('task_audit_log_')} {size}" for name, size in cursor.fetchall())


def searches(entries: int) -> dict:
    from audit.api.search import Search

    middle = START + timedelta(seconds=entries / 2)
    task, other = uuid.UUID(bytes=_md5(17)), uuid.UUID(bytes=_md5(18))
    return {
        "the newest": Search(),
        "a task": Search(tasks=[task]),
        "two tasks": Search(tasks=[task, other]),
        "a task with 1 % of all": Search(tasks=[_BUSY_TASK]),
        "an actor of half of all": Search(actors=["1"]),
        "a rare actor": Search(actors=["4001"]),
        "an actor who stopped long ago": Search(actors=["4002"]),
        "nobody": Search(actors=["nobody"]),
        "three actors": Search(actors=["1", "4001", "4002"]),
        "an hour of long ago": Search(since=middle, until=middle + timedelta(hours=1)),
        "the hour before Kafka was away": Search(since=START + timedelta(hours=23), until=START + timedelta(hours=24)),
        "an hour in which it was": Search(since=START + timedelta(hours=30), until=START + timedelta(hours=31)),
        "a rare actor, in half of the time": Search(actors=["4001"], until=middle),
        "a rare actor, until half of the outage": Search(actors=["4001"], until=START + timedelta(hours=36)),
        "a type that is rare, within a day": Search(types=["task.deleted"], since=middle, until=middle + timedelta(days=1)),
        "a request, within a day": Search(request_ids=["req-7"], since=middle, until=middle + timedelta(days=1)),
        "changed=status, in all the time": Search(changed=["status"], since=START),
        "changed=category, in all the time": Search(changed=["category"], since=START),
        "changed=category of the busy task": Search(changed=["category"], tasks=[_BUSY_TASK]),
    }


def _md5(number: int) -> bytes:
    import hashlib

    return hashlib.md5(str(number).encode(), usedforsecurity=False).digest()


def read(entries: int, plans: bool) -> dict[str, dict]:
    """What each search takes: milliseconds, blocks, statements."""
    from django.db import connection

    from audit import past
    from audit.api import search
    from tasks.api.pagination import Page

    turns = {name: (search.page, wanted, Page(50)) for name, wanted in searches(entries).items()}
    turns["a task at a version"] = (past.at_version, _BUSY_TASK, 107)
    turns["a task at a moment"] = (past.at_time, _BUSY_TASK, START + timedelta(seconds=entries / 3))
    seen = {}
    for name, (function, *arguments) in turns.items():
        statements = []

        def note(execute, sql, parameters, many, execution, statements=statements):
            statements.append((sql, parameters))
            return execute(sql, parameters, many, execution)

        with connection.execute_wrapper(note):
            found = function(*arguments)
        times = []
        for _ in range(15):
            began = time.perf_counter()
            function(*arguments)
            times.append((time.perf_counter() - began) * 1000)
        rows = f"{len(found.texts):3} entries" if hasattr(found, "texts") else "    a state"
        blocks = [explain(*statement, show=plans) for statement in statements]
        seen[name] = {"ms": round(statistics.median(times), 2), "blocks": sum(blocks), "statements": len(statements)}
        print(
            f"{name:36} {rows}  {statistics.median(times):7.1f} ms (most {max(times):6.1f})  {sum(blocks):6} blocks, "
            f"{len(statements)} statements",
            flush=True,
        )
    print()
    return seen


def explain(sql: str, parameters, show: bool) -> int:
    """The blocks that the statement touches, by its plan, which never reads a whole partition."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sql}", parameters)
        lines = [line for (line,) in cursor.fetchall()]
    if show:
        print("\n".join(["", *lines]))
    if wrong := [line for line in lines if "Seq Scan on task_audit_log" in line and "never executed" not in line]:
        print(f"  !! {wrong[0].strip()}")
    first = next((line for line in lines if "Buffers:" in line), "")  # none for what is known to be empty
    return sum(int(part.partition("=")[2]) for part in first.split() if part.startswith(("hit=", "read=")))


def cost_of_indexes(entries: int, rounds: int) -> dict[str, float]:
    """By how many percent the recorder takes longer with each index, in the log that there is: with and without in turn."""
    from django.db import connection

    from tests.benchmarks import ingest

    with connection.cursor() as cursor:
        size = offset(entries) + entries
        edge = b"\0" * 32 * size.bit_count()  # of the right size; what the tree says is not looked at here
        cursor.execute("UPDATE audit_log SET size = %s, edge = %s", [size, edge])
    ingest.make_tasks(4_000)
    recorded, found = 0, {}
    for index, definition in _INDEXES.items() if rounds else ():
        ratios = []
        for number in range(rounds):
            rates = {}
            for present in (True, False) if number % 2 else (False, True):
                with connection.cursor() as cursor:
                    cursor.execute(f"DROP INDEX IF EXISTS {index}")
                    if present:
                        cursor.execute(f"CREATE INDEX {index} ON task_audit_log {definition}")
                    cursor.execute("CHECKPOINT")
                for turn in range(3):
                    messages = ingest.make_events(recorded, recorded)
                    rate = ingest.timed(ingest.by_recorder, messages)
                    recorded += len(messages)
                    if turn:  # the first finds the caches cold
                        rates.setdefault(present, []).append(rate)
            ratios.append(statistics.mean(rates[False]) / statistics.mean(rates[True]))
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE INDEX IF NOT EXISTS {index} ON task_audit_log {definition}")
        found[f"{index} {definition}"] = (statistics.median(ratios) - 1) * 100
    return found


if __name__ == "__main__":
    main()
