"""The outbox under steady load: how large it gets, what is dead in it, and how long the relay's poll takes, while VACUUM can
do its work and while another session keeps a snapshot open all the time, as pg_dump does.

    python -m tests.benchmarks.outbox [--changes 1000000]

Each change is a row that is inserted, selected, marked and removed by the statements of outbox, relay and recorder; the
changes are those of a thousand tasks. Kafka and the log are left out: they do not touch the table.
"""

import argparse
import hashlib
import json
import time
import uuid
from contextlib import closing
from types import SimpleNamespace

import psycopg

from tests.benchmarks import database
from tests.benchmarks.machine import median, percentile

SUBJECTS = 1_000
BATCH = 500
SAMPLES = 10
# What a poll that finds nothing is held against, in milliseconds.
WANTED = 20.0
# The same of a relay that was no standby and knows no horizon: a takeover may take 2 s.
ANEW = 2000.0

_INSERT = """
    INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload)
    SELECT id, 'task', uuid_of, version, uuid_of::uuid, convert_to(json_build_object('id', id, 'x', repeat('x', 800))::text, 'UTF8')
    FROM (
      SELECT uuidv7() AS id, n / %(subjects)s + 1 AS version, lpad(to_hex(n %% %(subjects)s), 32, '0') AS uuid_of
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    ) made
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outbox")
    parser.add_argument("--changes", type=int, default=1_000_000)
    changes = parser.parse_args().changes
    with database.server() as (server_url, _), database.fresh_database(server_url) as url:
        alone = run(url, changes)
        report("VACUUM at work", alone)
        with closing(psycopg.connect(url)) as dump:
            dump.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            dump.execute("SELECT count(*) FROM tasks_outbox")
            beside = run(url, changes)
        report("beside an open snapshot", beside)
    # The median of the last tenth: a single look that took long says more of the machine's other work.
    worst = max(median(figures["last"]["poll"]) for figures in (alone, beside))
    print(f"\nthe poll at the end: {worst:.1f} ms in the median, wanted < {WANTED:.0f}")
    taken_over = {name: max(figures["all"][name][0] for figures in (alone, beside)) for name in ("standby", "anew")}
    print(
        f"until a relay that takes over has looked: a standby {taken_over['standby']:.1f} ms, wanted < {WANTED:.0f}; "
        f"one that has just begun {taken_over['anew']:.0f} ms, wanted < {ANEW:.0f}"
    )
    raise SystemExit(0 if worst < WANTED and taken_over["standby"] < WANTED and taken_over["anew"] < ANEW else 1)


def run(url: str, changes: int) -> dict:
    """Sizes over time; milliseconds of the relay's looks: over all, and in the last tenth."""
    from django.db import connection

    from tasks.barrier import LossDetector
    from tasks.horizon import Horizon
    from tasks.relay_queue import Queue, Window

    def look(name: str, call):
        began = time.perf_counter()
        answer = call()
        found.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        return answer

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tasks_outbox")
    found: dict[str, list[float]] = {}
    horizon, standby = Horizon(), Horizon()
    queue, losses = Queue(horizon), LossDetector("outbox-benchmark", "nobody", horizon)
    window = look("start", lambda: Window(queue, 100_000, 1_000))
    sizes, began, second = [], time.monotonic(), 0.0
    for first in range(0, changes, BATCH):
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, {"first": first, "last": first + BATCH - 1, "subjects": SUBJECTS})
        rows = look("batch", lambda: queue.due(1_000, 4_000_000, ()))
        queue.mark({row.id: row.attempts for row in rows})
        window.published(rows)
        if time.monotonic() - second >= 1:
            second = time.monotonic()
            look("losses", lambda: losses._begin(window.highest))
            look("horizon", lambda: horizon.advance(window.highest))
            look("follow", standby.follow)
        _record(rows)
        look("poll", lambda: queue.due(1_000, 4_000_000, ()))
        if first // BATCH % (changes // BATCH // SAMPLES) == 0 or first + BATCH >= changes:
            sizes.append((first + BATCH, *_size(connection)))
    losses.close()
    look("standby", lambda: take_over(standby))
    look("anew", lambda: take_over(Horizon()))
    last = {name: times[-max(1, len(times) // SAMPLES) :] for name, times in found.items()}
    return {"sizes": sizes, "all": found, "last": last, "rate": changes / (time.monotonic() - began)}


def take_over(horizon) -> None:
    """What a relay asks before its first batch."""
    from tasks.relay_queue import Queue, Window

    queue = Queue(horizon)
    Window(queue, 100_000, 1_000)
    queue.due(1_000, 4_000_000, ())


def _record(rows) -> None:
    """As the recorder removes what it records, in the order and number that arrive."""
    from audit import reconcile

    arrived = [
        SimpleNamespace(
            key=uuid.UUID(json.loads(row.payload)["id"]).bytes,
            digest=hashlib.sha256(row.payload).digest(),
            taken=False,
        )
        for row in rows
    ]
    reconcile.take_true(arrived)
    if not all(item.taken for item in arrived):
        raise SystemExit("the recorder did not take what it was given: the benchmark proves nothing")


def _size(connection) -> tuple[float, int]:
    """Megabytes with indexes, and dead rows as PostgreSQL estimates them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_total_relation_size('tasks_outbox') / 1e6, n_dead_tup, autovacuum_count FROM pg_stat_user_tables "
            "WHERE relname = 'tasks_outbox'"
        )
        return cursor.fetchone()


def report(name: str, figures: dict) -> None:
    print(f"\n{name}: {figures['rate']:.0f} changes a second")
    print(f"{'changes':>10}{'MB':>8}{'dead rows':>12}{'vacuums':>9}")
    for changes, size, dead, vacuums in figures["sizes"]:
        print(f"{changes:>10,}{size:>8.0f}{dead:>12,}{vacuums:>9}")
    print(f"{'ms':>10}{'median':>8}{'p99':>8}   last tenth: median{'p99':>8}")
    for kind in figures["all"]:
        times, last = sorted(figures["all"][kind]), sorted(figures["last"][kind])
        figures_of = (f"{value:>{width}.1f}" for value, width in zip(_of(times) + _of(last), (8, 8, 23, 8), strict=True))
        print(f"{kind:>10}{''.join(figures_of)}", flush=True)


def _of(ordered: list[float]) -> tuple[float, float]:
    return median(ordered), percentile(ordered, 0.99)


if __name__ == "__main__":
    main()
