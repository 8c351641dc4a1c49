"""Archiving: the oldest partition of the log is written to a file, the file is checked, and the partition detached.

The file is a bundle (audit/export.py), gzipped: each entry with its event, its leaf record and the proof that it is in a
checkpoint, so that it proves itself without a database. What stays here is what the rest needs: tiles and leaf records, the
last version of each subject, and how old an event is that is not known because it was archived. That it was done is an act on
record, the event `audit.archived` (audit/archive_event.py).
"""

import gzip
import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from django.db import OperationalError, connection, transaction
from psycopg import sql
from psycopg.types.json import Jsonb

from audit import archive_event, archive_file, last_states
from audit.checkpoint import key_for
from audit.export import Selection, bundle
from audit.models import Archive, LogHead
from audit.signed_note import VerifierKey
from audit.tiles import WIDTH
from taskpulse.worker import Backoff
from tasks.events import rfc3339

# lock_not_available (PostgreSQL documentation, appendix A).
_LOCKED = "55P03"
# Detaching waits for whoever reads the log, and everybody else behind it: so long at once, and so many seconds of tries.
_LOCK_TIMEOUT, PATIENCE = "500ms", 300.0
OFFLINE = "deploy/verify/taskpulse_verify.py"


class CannotArchive(Exception):
    """Nothing was archived; the message says what is in the way."""


@dataclass(frozen=True, slots=True)
class Span:
    """The entries of a partition that is to be archived."""

    partition: str
    first_seq: int
    last_seq: int


_PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'task_audit_log'::regclass
"""
_BOUND = re.compile(r"FOR VALUES FROM \('(\d+)'\) TO \('(\d+)'\)")
_STATE = """
SELECT (SELECT min(seq) FROM task_audit_log), (SELECT max(seq) FROM task_audit_log),
  (SELECT max(log + size - 1) FROM audit_checkpoint),
  (SELECT max(log + (number + 1) * %s - 1) FROM audit_tile WHERE level = 0 AND root IS NOT NULL)
"""


def oldest() -> Span:
    """The oldest partition. Raises CannotArchive unless it is full, signed for, in the tiles, and not the last one."""
    with connection.cursor() as cursor:
        cursor.execute(_PARTITIONS)
        bounds = {name: tuple(map(int, _BOUND.fullmatch(bound).groups())) for name, bound in cursor.fetchall()}
        cursor.execute(_STATE, [WIDTH])
        first, last, signed, in_tiles = cursor.fetchone()
    name, (start, end) = min(bounds.items(), key=lambda item: item[1])
    if first is None or last < end:
        raise CannotArchive(
            f"nothing to archive: the oldest partition, {name}, ends with entry {end - 1}, the log with {last or 0}"
        )
    if first < start or first >= end:
        raise CannotArchive(f"the oldest partition, {name}, is empty: detach it by hand if that is right, and see verify_audit")
    for what, until in (("the newest checkpoint", signed), ("the full tiles", in_tiles)):
        if (until or 0) < end - 1:
            raise CannotArchive(f"nothing to archive: entry {end - 1} is not covered by {what} yet, the relay makes them")
    return Span(name, first, end - 1)


def move(directory: Path, keys: Iterable[VerifierKey], say) -> Span:
    """Archives the oldest partition: the file has its name when that is committed, and not before. `say` is told what was done.

    Raises CannotArchive, CannotProve, OSError, and the database's faults: nothing was detached then, and no file is left. Where
    it broke off at the commit or after it, what is left is named by the next call (audit/archive_file.py).
    """
    if (left := archive_file.name_what_was_left(directory)) is not None:
        say(f"{left} was left without its name when it was archived: it has it now")
    span = oldest()
    path = directory / f"{span.partition}.jsonl.gz"
    if path.exists():
        raise CannotArchive(f"{path} is there already: move it away, or name another directory")
    locked = False
    try:
        with transaction.atomic():
            _lock(span)
            locked = True  # else the part may be another one's
            _archive(span, path, keys, say)
    except BaseException:
        if locked:
            archive_file.remove_unless_noted(path, span.first_seq)
        raise
    archive_file.name(path)
    return span


def _archive(span: Span, path: Path, keys: Iterable[VerifierKey], say) -> None:
    if oldest() != span:
        raise CannotArchive(f"{span.partition} was archived by somebody else meanwhile")
    part = archive_file.part_of(path)
    write(span, part)
    say(f"entries {span.first_seq} to {span.last_seq} written, {part.stat().st_size:,} bytes")
    sha256 = check(part, span, keys)
    say(f"they are sound; SHA-256 {sha256.hex()}")
    note(span, path.name, sha256)
    detach(span)


def _lock(span: Span) -> None:
    """Against an erasure, whose payloads the file would hold, and a second one of these. Whoever reads or appends goes on:
    no snapshot lasts, and appended is to another partition."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.Identifier(span.partition)))


def write(span: Span, path: Path) -> None:
    """The file, whole and on the disk."""
    with path.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as out:
            for line in bundle(Selection(from_seq=span.first_seq, until_seq=span.last_seq)):
                out.write(line)
        raw.flush()
        os.fsync(raw.fileno())


def check(path: Path, span: Span, keys: Iterable[VerifierKey]) -> bytes:
    """Reads the file as an auditor would, with the program that auditors have. Returns its SHA-256; raises CannotArchive."""
    offline = _offline()
    origins = LogHead.objects.values_list("origin", flat=True)
    known = {str(key_for(key, origin) or key) for key in keys for origin in origins}
    read = offline.Bundle(offline.Keys([offline.Key.parse(key) for key in sorted(known)], []), [])
    try:
        with gzip.open(path) as lines:
            read.read(lines)
        read.finish()
    except (offline.Wrong, offline.CannotCheck, OSError, EOFError, ValueError) as error:
        raise CannotArchive(f"the file is not sound: {error}") from None
    if not read.ended or (read.first, read.last, read.entries) != (
        span.first_seq,
        span.last_seq,
        span.last_seq - span.first_seq + 1,
    ):
        raise CannotArchive(f"the file does not hold entries {span.first_seq} to {span.last_seq}")
    return archive_file.sha256(path)


def _offline():
    path = Path(__file__).resolve().parent.parent / OFFLINE
    spec = importlib.util.spec_from_file_location("taskpulse_verify", path)
    if not path.exists():
        raise CannotArchive(f"{OFFLINE} is not there, and without it a file cannot be checked")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_UNTIL = "SELECT max(occurred_at) FROM task_audit_log WHERE seq BETWEEN %s AND %s"
_APPEND = """
SELECT taskpulse_append('audit', (SELECT origin FROM audit_log ORDER BY first_seq DESC LIMIT 1), 'archived', NULL, NULL,
  clock_timestamp(), %s)
"""
_APPENDED = "SELECT event_id FROM tasks_outbox WHERE id = currval(pg_get_serial_sequence('public.tasks_outbox', 'id'))"


def note(span: Span, file: str, sha256: bytes) -> None:
    """What the rest of the log needs to know of the archived entries, and the event that accounts for it."""
    last_states.note(span.first_seq, span.last_seq)
    with connection.cursor() as cursor:
        cursor.execute(_UNTIL, [span.first_seq, span.last_seq])
        (until,) = cursor.fetchone()
        cursor.execute(archive_event.ARCHIVES)
        archives = [*cursor.fetchall(), (span.first_seq, span.last_seq, file, sha256.hex(), rfc3339(until))]
        said = archive_event.document(archives, archive_event.subjects_digest(connection.connection))
        cursor.execute(_APPEND, [Jsonb({"audit": said, "changes": {}})])
        cursor.execute(_APPENDED)
        (event_id,) = cursor.fetchone()
    Archive.objects.create(
        first_seq=span.first_seq, last_seq=span.last_seq, file=file, sha256=sha256, events_until=until, event_id=event_id
    )


def detach(span: Span) -> None:
    """The table stays, for itself: to drop it is for a person who has the file safe. Raises CannotArchive when the log is
    read without a pause for PATIENCE seconds."""
    statement = sql.SQL("ALTER TABLE task_audit_log DETACH PARTITION {}").format(sql.Identifier(span.partition))
    backoff, end = Backoff(0.5, 5.0), time.monotonic() + PATIENCE
    while True:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)
            return
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) != _LOCKED:
                raise
        if time.monotonic() > end:
            raise CannotArchive("the log is in use by others all the time: nothing was archived, try again later")
        time.sleep(backoff.next())
