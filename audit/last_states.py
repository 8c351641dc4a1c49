"""What stays of each archived subject: the version and entry that a next one follows upon, whether that entry is a deletion,
and a digest of the document that it holds, against which the live row can still be held (audit/verification/drift.py).
"""

import hashlib

import orjson
from django.db import connection

from tasks.events import canonical

_ROWS = 1_000
# Of each subject the last entry of the span; the payloads are not sorted with the rest.
_LAST = """
SELECT e.subject_type, e.subject_id, e.task_id, e.version, e.seq, e.event_type, e.event_data::text
FROM (
  SELECT DISTINCT ON (subject_type, subject_id) seq FROM task_audit_log
  WHERE seq BETWEEN %s AND %s AND version IS NOT NULL ORDER BY subject_type, subject_id, seq DESC
) last JOIN task_audit_log e USING (seq)
"""
_NOTE = """
INSERT INTO audit_archived_subject (subject_type, subject_id, task_id, version, seq, deleted, document, fields)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (subject_type, subject_id) DO UPDATE SET task_id = excluded.task_id, version = excluded.version, seq = excluded.seq,
  deleted = excluded.deleted, document = excluded.document, fields = excluded.fields
"""


def note(first_seq: int, last_seq: int) -> None:
    """Notes the subjects of a span, in the caller's transaction and a constant amount of memory."""
    with connection.chunked_cursor() as found, connection.cursor() as cursor:
        found.itersize = _ROWS
        found.execute(_LAST, [first_seq, last_seq])
        while rows := found.fetchmany(_ROWS):
            cursor.executemany(_NOTE, [_noted(*row) for row in rows])


def _noted(kind: str, subject: str, task, version: int, seq: int, event_type: str, text: str) -> tuple:
    deleted = event_type == f"{kind}.deleted"
    data = orjson.loads(text).get("data") or {}
    # Nothing to compare with of what is deleted, and nothing left of what is erased.
    document = None if deleted else data.get(kind)
    if document is None:
        return kind, subject, task, version, seq, deleted, None, None
    fields = sorted(document)
    return kind, subject, task, version, seq, deleted, digest(document, fields), " ".join(fields)


def digest(document: dict, fields: list[str]) -> bytes:
    """SHA-256 of the fields of a document, in their canonical form. Raises KeyError for a field that it has not."""
    return hashlib.sha256(canonical({name: without_names(document[name]) for name in fields})).digest()


def without_names(value):
    """People are renamed: only who they are must be the same."""
    return value["id"] if isinstance(value, dict) and value.keys() == {"id", "name"} else value
