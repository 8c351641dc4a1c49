"""What archiving leaves on record: the event `audit.archived`, an entry of the log like any other.

Each row of `audit_archive` names the event that was written in its transaction, and `data.audit` of that says what the row
says: the span of `seq` (`entries`), the file, its SHA-256, and the time of its latest change. Beside it stand two digests, so
that the newest event accounts for all that is known of archived entries, those of the archives before it too, whose own
events may be archived by then: `archives`, over the rows of `audit_archive` up to this one, and `subjects`, over all rows of
`audit_archived_subject` as they were then. A digest is the SHA-256 of the rows as JSON arrays, a line each.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import orjson

EVENT_TYPE = "audit.archived"
# Entries of a partition (audit_ensure_partition in 0001_log.sql): an archive ends where one ends.
PARTITION = 10_000_000

# What the rows say, as text and whole numbers; the event's id, which is no part of it, stands last.
ARCHIVES = """
SELECT first_seq, last_seq, file, encode(sha256, 'hex'),
  to_char(events_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), event_id::text
FROM audit_archive ORDER BY first_seq
"""
_SUBJECTS = """
SELECT subject_type, subject_id, task_id::text, version, seq, deleted, encode(document, 'hex'), fields
FROM audit_archived_subject ORDER BY subject_type COLLATE "C", subject_id COLLATE "C"
"""
_ROWS = 2_000


def digest(rows: Iterable[Sequence]) -> str:
    """In hexadecimal."""
    found = sha256()
    for row in rows:
        found.update(orjson.dumps(list(row)) + b"\n")
    return found.hexdigest()


def subjects_digest(connection) -> str:
    """Over all rows of audit_archived_subject as they are; they are read piece by piece, in one snapshot. `connection` is
    psycopg's, in a transaction."""
    with connection.cursor(name="archived_subjects") as cursor:
        cursor.itersize = _ROWS
        return digest(cursor.execute(_SUBJECTS))


def document(archives: Sequence[Sequence], subjects: str) -> dict:
    """What the event of the last of `archives` (rows of ARCHIVES) says of it, and of those before."""
    first, last, file, file_digest, events_until, *_ = archives[-1]
    return {
        "archives": digest(row[:5] for row in archives),
        "entries": [[first, last]],
        "events_until": events_until,
        "file": file,
        "sha256": file_digest,
        "subjects": subjects,
    }


def accounts_for(event, archives: Sequence[Sequence]) -> bool:
    """Whether an event is that of the last of `archives`, and tells of all of them what their rows say."""
    try:
        said = event["data"]["audit"]
        return event["type"] == EVENT_TYPE and said == document(archives, said["subjects"])
    except (KeyError, TypeError):
        return False
