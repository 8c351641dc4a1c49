"""Checkpoints held outside the database, against the log: what it must still contain, whatever the database says."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from django.db import connection

from audit.checkpoint import Checkpoint
from audit.verification.heads import Head
from audit.verification.reading import read_only
from audit.verification.report import Finding, Report

# Compared with what is stored, so many in a statement.
_BATCH = 1_000
# Roots that are recomputed because the database stores no such checkpoint; one is enough to find a fork.
_MOST_RECOMPUTED = 1_000


@dataclass(slots=True)
class Compared:
    """`wanted`: the roots that the tree of each log must have, by the log and its size; `beyond`: of each log that is shorter
    than a checkpoint says, the largest such; `smallest`: the size of each one's smallest; `unstored`: how many of each are not
    stored, and need not be."""

    wanted: dict[int, dict[int, list[tuple[bytes, str]]]] = field(default_factory=dict)
    beyond: dict[str, tuple[Checkpoint, str]] = field(default_factory=dict)
    smallest: dict[str, int] = field(default_factory=dict)
    unstored: dict[str, int] = field(default_factory=dict)


def compare(
    held: Iterable[tuple[Checkpoint, str]], heads: Mapping[str, Head], report: Report, may_lack: Callable[[Head, Checkpoint], bool]
) -> Compared:
    """Constant in memory however many are held: one that the database stores with the same root is checked as a stored one,
    only the largest once more by itself. `may_lack`: whether it is no fault that a checkpoint is not stored."""
    found, largest = Compared(), {}
    check, compared, missing, recomputed = report.checks["outside"], 0, 0, 0
    held = iter(held)
    while batch := list(islice(held, _BATCH)):
        for checkpoint, where in batch:
            origin, size = checkpoint.origin, checkpoint.size
            found.smallest[origin] = min(size, found.smallest.get(origin, size))
            if origin not in heads:
                report.add(Finding("outside", f"a checkpoint of {origin} ({where}), and there is no such log"))
            else:
                _keep_largest(found.beyond if size > heads[origin].size else largest, checkpoint, where)
        known = [item for item in batch if item[0].origin in heads and 0 < item[0].size <= heads[item[0].origin].size]
        compared += len(known)
        for checkpoint, where in _not_stored(known, heads):
            if may_lack(heads[checkpoint.origin], checkpoint):
                found.unstored[checkpoint.origin] = found.unstored.get(checkpoint.origin, 0) + 1
            else:
                missing += 1
            recomputed += 1
            if recomputed <= _MOST_RECOMPUTED:
                _want(found.wanted, heads, checkpoint, where)
    for checkpoint, where in largest.values():
        _want(found.wanted, heads, checkpoint, where)
    check.compared = bool(compared or found.beyond)
    check.detail = f"{compared:,} compared" if check.compared else "there is none to compare with"
    if absent := missing + sum(found.unstored.values()):
        check.detail += f", {absent:,} of them not in the database"
    if missing:
        report.add(unstored(missing))
    return found


def unstored(count: int) -> Finding:
    return Finding("outside", f"{count:,} checkpoints that were signed are not stored as they were")


def _keep_largest(found: dict, checkpoint: Checkpoint, where: str) -> None:
    if checkpoint.origin not in found or found[checkpoint.origin][0].size < checkpoint.size:
        found[checkpoint.origin] = (checkpoint, where)


def _want(wanted: dict, heads: Mapping[str, Head], checkpoint: Checkpoint, where: str) -> None:
    if checkpoint.size:
        roots = wanted.setdefault(heads[checkpoint.origin].log, {}).setdefault(checkpoint.size, [])
        if (checkpoint.root, where) not in roots:
            roots.append((checkpoint.root, where))


_STORED = "SELECT size, root FROM audit_checkpoint WHERE log = %s AND size = ANY (%s)"


def _not_stored(batch: list[tuple[Checkpoint, str]], heads: Mapping[str, Head]) -> list[tuple[Checkpoint, str]]:
    """Those that the database does not store with the same root."""
    stored: dict[str, dict[int, bytes]] = {}
    for origin in {checkpoint.origin for checkpoint, _ in batch}:
        sizes = [checkpoint.size for checkpoint, _ in batch if checkpoint.origin == origin]
        with read_only(), connection.cursor() as cursor:
            cursor.execute(_STORED, [heads[origin].log, sizes])
            stored[origin] = {size: bytes(root) for size, root in cursor}
    return [(checkpoint, where) for checkpoint, where in batch if stored[checkpoint.origin].get(checkpoint.size) != checkpoint.root]
