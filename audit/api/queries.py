"""An entry as the audit API shows it; PostgreSQL writes the JSON. Pages of entries: `audit/api/search.py`."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid

from django.db import connection

from audit.redaction import MARKER
from tasks.events import rfc3339_sql

DOCUMENT = f"""
SELECT e.seq, e.event_id, e.event_type, e.subject_type || '/' || e.subject_id AS subject, e.task_id, e.version,
  CASE WHEN e.actor_id IS NOT NULL OR e.actor_type IS NOT NULL
    THEN json_build_object('id', e.actor_id, 'name', e.actor_name, 'type', e.actor_type) END AS actor,
  e.request_id, e.event_data ->> 'reason' AS reason, coalesce(e.event_data #> '{{data,changes}}', '{{}}') AS changes,
  e.event_data ->> '{MARKER}' AS redacted_by,
  e.event_data, {rfc3339_sql("e.occurred_at")} AS occurred_at, {rfc3339_sql("e.processed_at")} AS processed_at,
  encode(e.digest, 'hex') AS digest"""
_SELECT = f"SELECT e.seq, row_to_json(d)::text FROM task_audit_log e CROSS JOIN LATERAL ({DOCUMENT}) d"


def one(event_id: uuid.UUID) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} WHERE e.event_id = %s ORDER BY e.seq DESC LIMIT 1", [event_id])
        row = cursor.fetchone()
    return row and row[1]


def task_exists(task_id: uuid.UUID) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM tasks_task WHERE id = %s)", [task_id])
        return cursor.fetchone()[0]
