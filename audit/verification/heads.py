"""The logs as their heads in the database say, and whether these fit one another and the entries."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import connection

from audit.verification.reading import read_only
from audit.verification.report import CannotCheck, Finding, Report


@dataclass(slots=True)
class Head:
    log: int
    origin: str
    size: int
    edge: bytes
    # The largest checkpoint that is stored.
    signed: int

    @property
    def last(self) -> int:
        return self.log + self.size - 1


# One statement, so one snapshot: what is appended meanwhile is left for the next time.
_HEADS = """
SELECT h.first_seq, h.origin, h.size, h.edge,
  coalesce((SELECT max(c.size) FROM audit_checkpoint c WHERE c.log = h.first_seq), 0),
  (SELECT min(seq) FROM task_audit_log), (SELECT max(seq) FROM task_audit_log),
  (SELECT min(log) FROM audit_checkpoint WHERE log NOT IN (SELECT first_seq FROM audit_log))
FROM audit_log h ORDER BY h.first_seq
"""


def read(report: Report) -> list[Head]:
    """In their order. Raises CannotCheck where there is none."""
    with read_only(), connection.cursor() as cursor:
        cursor.execute(_HEADS)
        rows = cursor.fetchall()
    heads = [Head(log, origin, size, bytes(edge), signed) for log, origin, size, edge, signed, *_ in rows]
    if not heads:
        raise CannotCheck("the table audit_log has no head: the database is not migrated, or its head was removed")
    report.add(*_faults(heads, *rows[0][5:]))
    return heads


def _faults(heads: list[Head], first: int | None, last: int | None, stray: int | None) -> Iterator[Finding]:
    """`first` and `last` are the entries that there are, `stray` a log that has checkpoints and no head."""
    for before, after in itertools.pairwise(heads):
        if after.log != before.last + 1:
            text = f"the log {after.origin} begins here, the one before ends with entry {before.last}"
            yield Finding("head", text, after.log)
    if first is not None and first < heads[0].log:
        yield Finding("head", "entries stand before the first log begins", first, heads[0].log - 1)
    if last is not None and last > heads[-1].last:
        yield Finding("head", "entries stand beyond the head", heads[-1].last + 1, last)
    if stray is not None:
        yield Finding("head", f"there are checkpoints of a log that begins with entry {stray}, and no such log")
