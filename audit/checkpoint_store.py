"""Checkpoints and their cosignatures as they are stored: append-only, and PostgreSQL lets them only grow."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db import connection

from audit.checkpoint import NEXT_KEY, Checkpoint
from audit.key_ring import KeyRing
from audit.models import LogHead
from audit.signed_note import VerifierKey

# The note as it was signed; each witness adds a line below.
_COLUMNS = """
SELECT c.size, c.note, coalesce((SELECT string_agg(s.line, '' ORDER BY s.received_at, s.witness) FROM audit_cosignature s
                                 WHERE s.log = c.log AND s.size = c.size), '')
FROM audit_checkpoint c WHERE c.log = %s"""
_LATEST = f"{_COLUMNS} ORDER BY c.size DESC LIMIT 1"
_ONE = f"{_COLUMNS} AND c.size = %s"
_AFTER = f"{_COLUMNS} AND c.size > %s ORDER BY c.size LIMIT %s"
_HAND_OVERS = """
SELECT note FROM audit_checkpoint WHERE log = ANY (%s) AND position(%s::bytea IN note) > 0 ORDER BY log, size
"""
_ADD = "INSERT INTO audit_checkpoint (log, size, root, note) VALUES (%s, %s, %s, %s)"
_COSIGN = "INSERT INTO audit_cosignature (log, size, witness, line) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
_COSIGNED = "SELECT coalesce(max(size), 0) FROM audit_cosignature WHERE log = %s AND witness = %s"


@dataclass(frozen=True, slots=True)
class Stored:
    """`note` is as the log signed it, `cosigned` with the lines of its witnesses."""

    size: int
    note: bytes
    cosigned: bytes


def _found(row: tuple) -> Stored:
    size, note, lines = row
    return Stored(size, bytes(note), bytes(note) + lines.encode())


def _query(statement: str, *parameters) -> list[Stored]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [_found(row) for row in cursor]


def latest(log: int) -> Stored | None:
    """The newest checkpoint of the log that begins with entry `log`."""
    return next(iter(_query(_LATEST, log)), None)


def one(log: int, size: int) -> Stored | None:
    return next(iter(_query(_ONE, log, size)), None)


def after(log: int, size: int, most: int) -> list[Stored]:
    """The checkpoints beyond `size`, the smallest first."""
    return _query(_AFTER, log, size, most)


def hand_overs(logs: list[int]) -> list[bytes]:
    """The notes of these logs that name a next key, in their order."""
    with connection.cursor() as cursor:
        cursor.execute(_HAND_OVERS, [logs, f"\n{NEXT_KEY}".encode()])
        return [bytes(note) for (note,) in cursor]


def ring(keys: Iterable[VerifierKey]) -> KeyRing:
    """`keys`, and what became of them by the hand-overs that are stored."""
    begins = dict(LogHead.objects.values_list("origin", "first_seq"))
    found = KeyRing(keys, begins)
    found.learn(hand_overs(sorted(begins.values())))
    return found


def add(log: int, checkpoint: Checkpoint, note: bytes) -> None:
    """Raises IntegrityError where one as large or larger is signed, or the log is smaller."""
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [log, checkpoint.size, checkpoint.root, note])


def cosign(log: int, size: int, witness: str, line: str) -> None:
    """Keeps a witness's signature line; a second one of the same witness changes nothing."""
    with connection.cursor() as cursor:
        cursor.execute(_COSIGN, [log, size, witness, line])


def cosigned(log: int, witness: str) -> int:
    """The size of the greatest checkpoint that the witness cosigned; 0 if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(_COSIGNED, [log, witness])
        return cursor.fetchone()[0]
