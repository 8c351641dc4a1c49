"""The order within each subject: version after version, and a row for each subject that was not deleted.

Each statement is a snapshot of its own: writers beside it cause no finding.
"""

# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

from collections.abc import Iterator, Mapping

from audit.verification.entries import EVENT_TYPE, SEQ, SUBJECT_ID, SUBJECT_TYPE, TASK_ID, VERSION
from audit.verification.report import Finding

# Archived subjects that are looked at in one statement.
_BATCH = 5_000
# Of each subject type table, key and key's type.
Tables = Mapping[str, tuple[str, str, str]]

# The last version that was archived, of the subject of `e`.
_ARCHIVED = """(
  SELECT a.version FROM audit_archived_subject a
  WHERE a.subject_type = e.{kind} AND a.subject_id = e.{subject} AND a.seq < e.seq
)"""
# The index on (task_id, seq) bears it: of each entry the one before it in its subject.
_BEFORE = f"""
SELECT e.seq, coalesce(p.version, {_ARCHIVED.format(kind="kind", subject="subject")})
FROM unnest(%s::bigint[], %s::text[]::uuid[], %s::text[], %s::text[]) e (seq, task_id, kind, subject)
LEFT JOIN LATERAL (
  SELECT version FROM task_audit_log p WHERE p.task_id = e.task_id AND p.subject_type = e.kind AND p.subject_id = e.subject
    AND p.seq < e.seq AND p.version IS NOT NULL ORDER BY p.seq DESC LIMIT 1
) p ON true
"""
# Subjects of no task are grouped by nothing: their entries, which are few, stand together under the index's null.
_WITHOUT_TASK = f"""
SELECT seq, version, before FROM (
  SELECT seq, version, coalesce(lag(version) OVER (PARTITION BY subject_type, subject_id ORDER BY seq),
    {_ARCHIVED.format(kind="subject_type", subject="subject_id")}) AS before
  FROM task_audit_log e WHERE task_id IS NULL AND version IS NOT NULL AND seq <= %s
) w WHERE version <> coalesce(before, 0) + 1 AND seq >= %s ORDER BY seq LIMIT %s
"""
# Of a subject that was created: its row is not there, and no event of it is on the way to the log.
_NO_ROW = """
  NOT EXISTS (SELECT FROM {table} t WHERE t.{key} = CASE WHEN pg_input_is_valid(c.subject, '{type}') THEN c.subject::{type} END)
  AND NOT EXISTS (SELECT FROM tasks_outbox o WHERE o.subject_type = %s AND o.subject_id = c.subject)"""
_GONE = f"""
SELECT c.seq FROM unnest(%s::bigint[], %s::text[]::uuid[], %s::text[]) c (seq, task_id, subject)
WHERE NOT EXISTS (SELECT FROM task_audit_log d WHERE d.task_id = c.task_id AND d.subject_type = %s AND d.subject_id = c.subject
                  AND d.seq > c.seq AND d.event_type = %s)
  AND{_NO_ROW} ORDER BY c.seq
"""
# One pass and a sort: a join of the log with itself takes minutes where the planner knows nothing of it yet.
_GONE_WITHOUT_TASK = f"""
SELECT c.seq FROM (
  SELECT seq, subject_id AS subject, event_type, max(seq) FILTER (WHERE event_type = %s) OVER (PARTITION BY subject_id) AS deleted
  FROM task_audit_log WHERE task_id IS NULL AND subject_type = %s
) c WHERE c.event_type = %s AND c.seq BETWEEN %s AND %s AND coalesce(c.deleted < c.seq, true)
  AND{_NO_ROW} ORDER BY c.seq LIMIT %s
"""
# Of subjects whose last entry is archived, a batch. Of a task's subjects an index bears the look for a later deletion; the
# others are few, and so are their entries.
_ARCHIVED_ONES = f"""
SELECT c.subject, c.seq, c.deleted = false AND{_NO_ROW.replace("%s", "%(kind)s")}
  AND CASE WHEN c.task_id IS NULL THEN NOT EXISTS (
    SELECT FROM task_audit_log d WHERE d.task_id IS NULL AND d.subject_type = %(kind)s AND d.subject_id = c.subject
      AND d.seq > c.seq AND d.event_type = %(deleted)s)
  ELSE NOT EXISTS (
    SELECT FROM task_audit_log d WHERE d.task_id = c.task_id AND d.subject_type = %(kind)s AND d.subject_id = c.subject
      AND d.seq > c.seq AND d.event_type = %(deleted)s) END
FROM (SELECT subject_id AS subject, seq, task_id, deleted FROM audit_archived_subject
      WHERE subject_type = %(kind)s AND subject_id > %(after)s ORDER BY subject_id LIMIT %(most)s) c
ORDER BY c.subject
"""


class Versions:
    """Follows the versions of consecutive entries; what came before them is asked of the database."""

    def __init__(self):
        self._last: dict[tuple[str, str], int] = {}

    def forget(self) -> None:
        """The next rows do not follow upon those before."""
        self._last.clear()

    def check(self, connection, rows: list[tuple]) -> Iterator[Finding]:
        first: dict[tuple[str, str], tuple] = {}
        for row in rows:
            version = row[VERSION]
            if version is None or row[TASK_ID] is None:
                continue
            subject = (row[SUBJECT_TYPE], row[SUBJECT_ID])
            before = self._last.get(subject)
            self._last[subject] = version
            if before is None:
                first[subject] = row
            elif version != before + 1:
                yield _gap(row[SEQ], version, before)
        if first:
            yield from self._check_first(connection, list(first.values()))

    def _check_first(self, connection, rows: list[tuple]) -> Iterator[Finding]:
        columns = [[row[column] for row in rows] for column in (SEQ, TASK_ID, SUBJECT_TYPE, SUBJECT_ID)]
        with connection.cursor(binary=True) as cursor:
            before = dict(cursor.execute(_BEFORE, columns).fetchall())
        for row in rows:
            if row[VERSION] != (before[row[SEQ]] or 0) + 1:
                yield _gap(row[SEQ], row[VERSION], before[row[SEQ]])


def _gap(seq: int, version: int, before: int | None) -> Finding:
    what = "its subject's first in the log" if before is None else f"the one before is version {before}"
    return Finding("versions", f"it is version {version}, {what}", seq)


def check_without_task(connection, tables: Tables, first: int, last: int, most: int) -> Iterator[Finding]:
    """Subjects of no task: their versions, and rows that went without a deletion. From `first` on, the first `most` of each."""
    with connection.cursor(binary=True) as cursor:
        for row in cursor.execute(_WITHOUT_TASK, [last, first, most]).fetchall():
            yield _gap(*row)
    for kind, table in tables.items():
        parameters = [f"{kind}.deleted", kind, f"{kind}.created", first, last, kind, most]
        yield from _gone(connection, _GONE_WITHOUT_TASK, kind, table, parameters)


def check_gone(connection, tables: Tables, rows: list[tuple]) -> Iterator[Finding]:
    """Entries of a creation whose row went without a deletion; of subjects that belong to a task."""
    for kind, table in tables.items():
        created = [row for row in rows if row[EVENT_TYPE] == f"{kind}.created" and row[TASK_ID] is not None]
        if created:
            columns = [[row[column] for row in created] for column in (SEQ, TASK_ID, SUBJECT_ID)]
            yield from _gone(connection, _GONE, kind, table, [*columns, kind, f"{kind}.deleted", kind])


def _gone(connection, statement: str, kind: str, table: tuple[str, str, str], parameters: list) -> Iterator[Finding]:
    name, key, key_type = table
    with connection.cursor(binary=True) as cursor:
        cursor.execute(statement.format(table=name, key=key, type=key_type), parameters)
        for (seq,) in cursor.fetchall():
            yield Finding("drift", f"the {kind} that it created is gone, and no deletion is recorded", seq)


def check_archived(connection, kind: str, table: tuple[str, str, str], after: str) -> tuple[list[Finding], int, str]:
    """Archived subjects whose row went without a deletion: findings of the next batch after the subject `after`, how many
    there were, and after which to go on."""
    name, key, key_type = table
    parameters = {"kind": kind, "deleted": f"{kind}.deleted", "after": after, "most": _BATCH}
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(_ARCHIVED_ONES.format(table=name, key=key, type=key_type), parameters).fetchall()
    text = f"the {kind} {{}} whose last entry this is, archived, is gone, and no deletion is recorded"
    found = [Finding("drift", text.format(subject), seq) for subject, seq, gone in rows if gone]
    return found, len(rows), rows[-1][0] if rows else after
