"""A bundle: entries of the log with their proofs, as JSON Lines that are checked offline (docs/verification.md).

Each line is a document by itself: a `log` line with the checkpoint to which the proofs that follow lead, an `entry` line
with the event and its C2SP tlog-proof, an `account` line before the first entry that an erasure concerns, and an `end` line,
without which a bundle is incomplete. It is made as it is read,
from short statements and a bounded part of the tree.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson
from django.db import connection

from audit import coverage
from audit.erasure_accounts import Erasures
from audit.verification import entries
from tasks.events import rfc3339

FORMAT = "taskpulse-bundle-v1"
CONTENT_TYPE = "application/jsonl"
# Entries looked at in one statement, be they part of the bundle or not; entries of one task are found by an index.
_WINDOW, _TASK_ROWS = 2_000, 500
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: all, or those of a task, an actor, a time of the change (`since` included, `until` not), from
    `from_seq` on, up to `until_seq` if that is given."""

    task: uuid.UUID | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    from_seq: int = 1
    until_seq: int | None = None

    def as_json(self) -> dict:
        conditions = {"task": self.task, "actor": self.actor, "since": rfc3339(self.since), "until": rfc3339(self.until)}
        return {name: str(value) for name, value in conditions.items() if value is not None}


def bundle(selection: Selection, seconds: float = float("inf")) -> Iterator[bytes]:
    """The lines, newline included. Entries above the newest checkpoint have no proof yet, and those that were not reached
    in `seconds` are left out too: they are for a later bundle, from the `next_seq` of the end line on. Archived entries are
    in files of their own (audit/archive.py).

    Raises coverage.CannotProve.
    """
    end, count, next_seq = time.monotonic() + seconds, 0, max(selection.from_seq, _oldest())
    erasures = Erasures()
    for tree in _trees():
        first, last = max(next_seq, tree.log.first_seq), min(tree.end - 1, selection.until_seq or _MOST)
        if first > last:
            continue
        yield _begin(tree, first, selection)
        read_node = coverage.nodes(tree)
        for rows, reached in _batches(selection, first, last):
            for account in erasures.accounts(rows):
                yield _line(kind="account", **account)
            for row in rows:
                yield _line(kind="entry", **coverage.proved(row, tree, read_node))
            count, next_seq = count + len(rows), reached
            if time.monotonic() >= end:
                break
        if next_seq <= last:
            break
    pending = {"pending": sorted(erasures.pending)} if erasures.pending else {}
    yield _line(kind="end", entries=count, next_seq=next_seq, **pending)


def _trees() -> Iterator[coverage.Tree]:
    """Of all logs, as far as there is one without a gap."""
    for log in coverage.logs():
        tree = None
        for tree in coverage.trees(log):
            yield tree
        if tree is None or tree.size != log.closed:
            return


def _begin(tree: coverage.Tree, first: int, selection: Selection) -> bytes:
    return _line(
        kind="log", format=FORMAT, origin=tree.log.origin, first_seq=tree.log.first_seq, size=tree.size, from_seq=first,
        selection=selection.as_json(), checkpoint=tree.note.decode(), **({"closed": tree.closed_by} if tree.closed_by else {}),
    )  # fmt: skip


def _line(**document) -> bytes:
    return orjson.dumps(document) + b"\n"


def _oldest() -> int:
    """The first entry that is here."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(min(seq), 1) FROM task_audit_log")
        return cursor.fetchone()[0]


def _batches(selection: Selection, first: int, last: int) -> Iterator[tuple[list[tuple], int]]:
    """Rows, and the number up to which all was looked at (not included), until that is beyond `last`."""
    conditions, values = _conditions(selection)
    while first <= last:
        window = last if selection.task else min(first + _WINDOW - 1, last)
        limit = f" LIMIT {_TASK_ROWS}" if selection.task else ""
        rows = coverage.read(f"{entries.SELECT}{conditions} ORDER BY seq{limit}", [first, window, *values])
        first = rows[-1][entries.SEQ] + 1 if selection.task and len(rows) == _TASK_ROWS else window + 1
        yield rows, first


def _conditions(selection: Selection) -> tuple[str, list]:
    asked = {
        "task_id = %s": selection.task, "actor_id = %s": selection.actor, "occurred_at >= %s": selection.since,
        "occurred_at < %s": selection.until,
    }  # fmt: skip
    return (
        "".join(f" AND {condition}" for condition, value in asked.items() if value is not None),
        [value for value in asked.values() if value is not None],
    )
