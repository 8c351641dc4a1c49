"""Whoever has the database changes the log: each change at or below a checkpoint held outside is found, nothing else is.

A share of it runs with the other tests; `make tamper-test` runs all of it and shows the counts.
"""

import os
import random
from collections import Counter

import pytest
from django.db import transaction

from audit.models import LogHead
from audit.verification.report import Report
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, make_log, record_all, some_changes
from tests.tampering import ABOVE, WAYS

# Of each seed: tamperings, and untouched logs.
COUNT = int(os.environ.get("TAMPERINGS", len(WAYS)))
LOGS = int(os.environ.get("UNTOUCHED_LOGS", "4"))
SEEDS = range(2)


def place_is_named(report: Report, expected: set[int]) -> bool:
    first = report.first_bad
    return first.seq is not None and any(first.seq <= seq <= (first.until or first.seq) for seq in expected)


@pytest.mark.foreign_events
@pytest.mark.parametrize("seed", SEEDS)
def test_every_tampering_is_found(db, seed):
    rng = random.Random(seed)
    log = make_log(rng, changes=280, rounds=7)
    assert log.pinned > 256  # a full tile, and more
    assert not log.verify().tampered
    disable_triggers()
    named = Counter()
    for number in range(COUNT):
        way = WAYS[number % len(WAYS)]
        with transaction.atomic():
            expected = way(rng, log)
            report = log.verify()
            assert report.tampered, f"{way.__name__} {expected} was not found (number {number})"
            first = report.first_bad
            if expected is None:
                named["of no entry"] += 1
            else:
                assert place_is_named(report, expected), f"{way.__name__}: expected {expected}, found {first} (number {number})"
                named["its entry named" if first.until in (None, first.seq) else "a range named"] += 1
            transaction.set_rollback(True)
    assert not log.verify().tampered
    print(f"{COUNT} tamperings at or below the last checkpoint outside, all found: {dict(named)}")


@pytest.mark.parametrize("seed", SEEDS)
def test_an_untouched_log_raises_no_alarm(db, seed):
    """Logs of all kinds, with events that wait, are held, or lie above the last checkpoint; with and without tiles."""
    rng = random.Random(seed)
    entries = 0
    for _ in range(LOGS):
        with transaction.atomic():
            log = make_log(rng, rng.choice([0, 3, 20, 40]), rng.randint(1, 4)) if rng.random() < 0.9 else Log()
            tasks: list = []
            some_changes(rng, tasks, rng.randint(0, 10))
            if rng.random() < 0.5:
                record_all()
            some_changes(rng, tasks, rng.randint(0, 5))
            execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
            if rng.random() < 0.3:
                execute("UPDATE tasks_outbox SET held_at = now(), held_reason = 'looked at'")
            report = log.verify(held=rng.sample(log.held, rng.randint(0, len(log.held))))
            assert [str(finding) for finding in report.findings] == []
            assert report.entries == LogHead.objects.get().size
            entries += report.entries
            transaction.set_rollback(True)
    print(f"{LOGS} untouched logs with {entries} entries: no finding")


@pytest.mark.foreign_events
def test_what_is_found_above_the_last_checkpoint(db):
    """There the owner can remake the chain: only live rows and versions tell. How often is measured, not promised."""
    rng = random.Random(3)
    log = make_log(rng, changes=60, rounds=2)
    held = log.held[:1]
    execute("ALTER TABLE audit_checkpoint DISABLE TRIGGER ALL")
    execute("DELETE FROM audit_checkpoint WHERE size > %s", held[0].size)
    disable_triggers()
    assert not log.verify(held=held).tampered
    found, tried = Counter(), Counter()
    for number in range(COUNT // len(ABOVE) * len(ABOVE)):
        way = ABOVE[number % len(ABOVE)]
        with transaction.atomic():
            way(rng, held[0].size + 1, log.pinned)
            tried[way.__name__] += 1
            found[way.__name__] += log.verify(held=held).tampered
            transaction.set_rollback(True)
    assert found["remove_the_midst"] == tried["remove_the_midst"] > 0
    assert found["swap_within_a_task"] == tried["swap_within_a_task"] > 0
    print("above it, found: " + ", ".join(f"{name} {found[name]} of {tried[name]}" for name in tried))
