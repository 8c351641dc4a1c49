"""Checkpoints held outside the database, against the log: what it must still contain, whatever the database says."""

from collections.abc import Iterable, Mapping
from itertools import islice

from django.db import connection

from audit.checkpoint import Checkpoint
from audit.verification.reading import read_only
from audit.verification.report import Finding, Report

# Compared with what is stored, so many in a statement.
_BATCH = 1_000
# Roots that are recomputed because the database stores no such checkpoint; one is enough to find a fork.
_MOST_RECOMPUTED = 1_000

Wanted = dict[int, dict[int, list[tuple[bytes, str]]]]
Beyond = dict[str, tuple[Checkpoint, str]]
Smallest = dict[str, int]


def compare(held: Iterable[tuple[Checkpoint, str]], heads: Mapping[str, object], report: Report) -> tuple[Wanted, Beyond, Smallest]:
    """The roots that the tree of each log must have, by the log and its size; of each log that is shorter than a checkpoint
    says, the largest such; and the size of the smallest checkpoint of each.

    Constant in memory however many are held: one that the database stores with the same root is checked as a stored one,
    only the largest once more by itself.
    """
    wanted: Wanted = {}
    largest: Beyond = {}
    beyond: Beyond = {}
    smallest: Smallest = {}
    check, compared, missing = report.checks["outside"], 0, 0
    held = iter(held)
    while batch := list(islice(held, _BATCH)):
        for checkpoint, where in batch:
            smallest[checkpoint.origin] = min(checkpoint.size, smallest.get(checkpoint.origin, checkpoint.size))
            if checkpoint.origin not in heads:
                report.add(Finding("outside", f"a checkpoint of {checkpoint.origin} ({where}), and there is no such log"))
            elif checkpoint.size > heads[checkpoint.origin].size:
                _keep_largest(beyond, checkpoint, where)
            else:
                _keep_largest(largest, checkpoint, where)
        known = [item for item in batch if item[0].origin in heads and 0 < item[0].size <= heads[item[0].origin].size]
        compared += len(known)
        for checkpoint, where in _not_stored(known, heads):
            missing += 1
            if missing <= _MOST_RECOMPUTED:
                _want(wanted, heads, checkpoint, where)
    for checkpoint, where in largest.values():
        _want(wanted, heads, checkpoint, where)
    check.compared = bool(compared or beyond)
    check.detail = f"{compared:,} compared" if check.compared else "there is none to compare with"
    if missing:
        check.detail += f", {missing:,} of them not in the database"
        report.add(Finding("outside", f"{missing:,} checkpoints that were signed are not stored as they were"))
    return wanted, beyond, smallest


def _keep_largest(found: dict, checkpoint: Checkpoint, where: str) -> None:
    if checkpoint.origin not in found or found[checkpoint.origin][0].size < checkpoint.size:
        found[checkpoint.origin] = (checkpoint, where)


def _want(wanted: Wanted, heads: Mapping[str, object], checkpoint: Checkpoint, where: str) -> None:
    if checkpoint.size:
        roots = wanted.setdefault(heads[checkpoint.origin].log, {}).setdefault(checkpoint.size, [])
        if (checkpoint.root, where) not in roots:
            roots.append((checkpoint.root, where))


_STORED = "SELECT size, root FROM audit_checkpoint WHERE log = %s AND size = ANY (%s)"


def _not_stored(batch: list[tuple[Checkpoint, str]], heads: Mapping[str, object]) -> list[tuple[Checkpoint, str]]:
    """Those that the database does not store with the same root."""
    stored: dict[str, dict[int, bytes]] = {}
    for origin in {checkpoint.origin for checkpoint, _ in batch}:
        sizes = [checkpoint.size for checkpoint, _ in batch if checkpoint.origin == origin]
        with read_only(), connection.cursor() as cursor:
            cursor.execute(_STORED, [heads[origin].log, sizes])
            stored[origin] = {size: bytes(root) for size, root in cursor}
    return [(checkpoint, where) for checkpoint, where in batch if stored[checkpoint.origin].get(checkpoint.size) != checkpoint.root]
