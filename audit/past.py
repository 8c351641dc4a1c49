"""A task as it was: at a version, or at a moment. One statement, whatever the length of the history."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid
from dataclasses import dataclass
from datetime import datetime

import orjson
from django.db import connection

from audit import bisection, redaction

_OF_TASK = "e.task_id = %(id)s AND e.subject_type = 'task'"


def _statement(recorded: str, pending: str) -> str:
    """An event is in the outbox or in the log, never in both: one statement sees one state of both. What waits in the
    outbox is newer than all that the log has of the same task."""
    return f"""
WITH RECURSIVE {bisection.last("halves", _OF_TASK, recorded)}
SELECT version, event_type, event FROM (
  (SELECT o.version, o.event ->> 'type' AS event_type, o.event::text AS event
   FROM (SELECT version, convert_from(payload, 'UTF8')::json AS event FROM tasks_outbox
         WHERE subject_type = 'task' AND subject_id = %(id)s::text) o
   WHERE {pending} ORDER BY o.version DESC LIMIT 1)
  UNION ALL
  SELECT e.version, e.event_type, e.event_data::text FROM task_audit_log e WHERE e.seq = (SELECT max(seq) FROM halves)
) found ORDER BY version DESC LIMIT 1"""


_AT_VERSION = _statement("e.version <= %(bound)s::bigint", "o.version <= %(bound)s::bigint")
_AT_TIME = _statement("e.occurred_at <= %(bound)s::timestamptz", "(o.event ->> 'time')::timestamptz <= %(bound)s::timestamptz")


@dataclass(frozen=True, slots=True)
class State:
    """What the last event up to a point says. `document` is None where the payload was erased, `redacted_by` names the
    event that accounts for it, if the entry does."""

    version: int
    deleted: bool
    document: dict | None
    redacted_by: str | None


def at_version(task_id: uuid.UUID, version: int) -> State | None:
    """None where the task has no such version."""
    found = _read(_AT_VERSION, task_id, version)
    return found if found is not None and found.version == version else None


def at_time(task_id: uuid.UUID, moment: datetime) -> State | None:
    """None before the task's creation, and for no task of this id. An event counts from its own microsecond on."""
    return _read(_AT_TIME, task_id, moment)


@dataclass(frozen=True, slots=True)
class Archived:
    """The last version of a task whose entry is archived, and the file that holds it; earlier ones are there or in files
    before it."""

    version: int
    file: str


_ARCHIVED = """
SELECT s.version, a.file FROM audit_archived_subject s JOIN audit_archive a ON s.seq BETWEEN a.first_seq AND a.last_seq
WHERE s.subject_type = 'task' AND s.subject_id = %s
"""


def archived(task_id: uuid.UUID) -> Archived | None:
    """None where nothing of the task is archived."""
    with connection.cursor() as cursor:
        cursor.execute(_ARCHIVED, [str(task_id)])
        row = cursor.fetchone()
    return row and Archived(*row)


def _read(statement: str, task_id: uuid.UUID, bound) -> State | None:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"id": task_id, "bound": bound})
        row = cursor.fetchone()
    if row is None:
        return None
    version, event_type, text = row
    event = orjson.loads(text)
    data = event.get("data")
    document = data.get("task") if isinstance(data, dict) else None
    return State(version, event_type == "task.deleted", document or None, redaction.accounted_by(event))
