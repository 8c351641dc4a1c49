"""What a restored database is worth: whether its log is whole, and how much of it was lost since the dump.

The topic's checkpoints reach beyond the dump. Those up to its size must be of the same tree; the newest says how many
entries there were since, which a restore would lose.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from django.db import connection

from audit.checkpoint import Checkpoint
from audit.signed_note import VerifierKey
from audit.verification.report import Report
from audit.verification.verifier import Options, Verifier

Held = Iterable[tuple[Checkpoint, str]]

_LOGS = """
SELECT h.origin, h.first_seq, h.size,
  (SELECT max(c.size) FROM audit_checkpoint c WHERE c.log = h.first_seq),
  (SELECT processed_at FROM task_audit_log WHERE seq = h.first_seq + h.size - 1)
FROM audit_log h ORDER BY h.first_seq
"""


@dataclass(slots=True)
class RestoredLog:
    """`signed` is the size of the newest checkpoint in the dump, `outside` that of the newest one held elsewhere; None
    where there is none. `first_seq` is None for a log that was begun after the dump."""

    origin: str
    first_seq: int | None
    size: int
    signed: int | None
    recorded_until: datetime | None
    outside: int | None = None

    @property
    def lost(self) -> int | None:
        """Entries that were signed for since, at the least; None where nothing is there to compare with."""
        return None if self.outside is None else max(0, self.outside - self.size)


@dataclass(slots=True)
class Drill:
    """`waiting`: events in the outbox of the dump, which are recorded when the database goes into service."""

    report: Report
    logs: list[RestoredLog]
    waiting: int

    def as_json(self) -> dict:
        return {
            **self.report.as_json(),
            "logs": [
                asdict(log) | {"recorded_until": log.recorded_until and log.recorded_until.isoformat(), "lost": log.lost}
                for log in self.logs
            ],
            "waiting": self.waiting,
        }

    def in_words(self) -> str:
        """Below what the report says."""
        lines = [line for log in self.logs for line in _described(log)]
        lines.append(f"waiting in the outbox: {self.waiting:,} events, which are recorded when it goes into service")
        return "\n".join(lines)


def _described(log: RestoredLog) -> Iterator[str]:
    if log.first_seq is None:
        yield f"log {log.origin}: begun after the dump, {log.outside:,} entries were signed for: all of them are lost"
        return
    until = f", the last recorded at {log.recorded_until:%Y-%m-%d %H:%M:%S} UTC" if log.recorded_until else ""
    yield f"log {log.origin}: {log.size:,} entries{until}; newest checkpoint: {log.signed or 0:,} entries in the dump"
    if log.lost is None:
        yield "  lost since: not compared, there is no checkpoint held outside the database"
    elif log.lost:
        last = log.first_seq + log.outside - 1
        yield f"  lost since: {log.lost:,} entries, {log.first_seq + log.size} to {last}, by the newest checkpoint held outside"
    else:
        yield f"  lost since: nothing that was signed for, the newest checkpoint held outside is of {log.outside:,} entries"


def examine(keys: list[VerifierKey], held: Held, options: Options) -> Drill:
    """Of the database that the default connection leads to. Raises CannotCheck, and the faults of database and broker."""
    with connection.cursor() as cursor:
        cursor.execute(_LOGS)
        logs = {row[0]: RestoredLog(*row) for row in cursor.fetchall()}
        cursor.execute("SELECT count(*) FROM tasks_outbox")
        (waiting,) = cursor.fetchone()
    report = Verifier(keys, _not_later(held, logs), replace(options, restored=True)).run()
    return Drill(report, list(logs.values()), waiting)


def _not_later(held: Held, logs: dict[str, RestoredLog]) -> Iterator[tuple[Checkpoint, str]]:
    """The checkpoints that the restored logs must agree with. What was signed since is noted in `logs`, and no fault."""
    for checkpoint, where in held:
        log = logs.setdefault(checkpoint.origin, RestoredLog(checkpoint.origin, None, 0, None, None))
        log.outside = max(log.outside or 0, checkpoint.size)
        if checkpoint.size <= log.size:
            yield checkpoint, where
