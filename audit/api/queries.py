"""The statements of the audit API. PostgreSQL writes the JSON; a page is one statement, by keyset on `seq`."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid
from dataclasses import dataclass, field

from django.db import connection

from tasks.api.pagination import Page, Slice, cut
from tasks.api.queries import utc

# `seq` is gapless: a page that no index bears (an actor, a type) looks at so many entries at most and then leads on by
# its Link header, so that a rare actor costs no scan of the whole log.
WINDOW = 10_000

_DOCUMENT = f"""
SELECT e.seq, e.event_id, e.event_type, e.subject_type || '/' || e.subject_id AS subject, e.task_id, e.version,
  CASE WHEN e.actor_id IS NOT NULL OR e.actor_type IS NOT NULL
    THEN json_build_object('id', e.actor_id, 'name', e.actor_name, 'type', e.actor_type) END AS actor,
  e.request_id, e.event_data ->> 'reason' AS reason, coalesce(e.event_data #> '{{data,changes}}', '{{}}') AS changes,
  e.event_data ->> 'redacted' AS redacted_by,
  e.event_data, {utc("e.occurred_at")} AS occurred_at, {utc("e.processed_at")} AS processed_at, encode(e.digest, 'hex') AS digest"""
_SELECT = f"SELECT e.seq, row_to_json(d)::text FROM task_audit_log e CROSS JOIN LATERAL ({_DOCUMENT}) d"


@dataclass(slots=True)
class Search:
    """What to look for; an empty list is no condition. With a task the index on (task_id, seq) bears the search."""

    tasks: list[uuid.UUID] = field(default_factory=list)
    actors: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)

    @property
    def windowed(self) -> bool:
        return bool(self.actors or self.types) and not self.tasks


def one(event_id: uuid.UUID) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} WHERE e.event_id = %s ORDER BY e.seq DESC LIMIT 1", [event_id])
        row = cursor.fetchone()
    return row and row[1]


def page(search: Search, at: Page) -> Slice:
    """One statement; two for a windowed search, which must know the newest entry."""
    if not search.windowed:
        return cut(_rows(search, at), at)
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(seq), 0) FROM task_audit_log")
        newest = cursor.fetchone()[0]
    start = newest + 1 if at.key is None else at.key
    end = start + WINDOW if at.backward else start - WINDOW
    rows = _rows(search, Page(at.limit, start, at.backward), end)
    found = cut(rows, at)
    # `seq` is gapless: the neighbours of a window are known without a row in it.
    if at.backward:
        return Slice(found.texts, found.newer or (end if end < newest else None), start + 1)
    return Slice(found.texts, None if at.key is None else start - 1, found.older or (end if end > 1 else None))


def _rows(search: Search, at: Page, end: int | None = None) -> list[tuple[int, str]]:
    """`seq` and JSON of a page and of one row more, if there is one, in the order of reading; none beyond `end`."""
    conditions, parameters = [], []
    for column, values in (("task_id", search.tasks), ("actor_id", search.actors), ("event_type", search.types)):
        if values:
            conditions.append(f"e.{column} IN ({', '.join(['%s'] * len(values))})")
            parameters += values
    sign, order = (">", "ASC") if at.backward else ("<", "DESC")
    if at.key is not None:
        conditions.append(f"e.seq {sign} %s::bigint")
        parameters.append(at.key)
    if end is not None:
        conditions.append(f"e.seq {'<=' if at.backward else '>='} %s::bigint")
        parameters.append(end)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    with connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} {where} ORDER BY e.seq {order} LIMIT {at.limit + 1}", parameters)
        return cursor.fetchall()


def task_exists(task_id: uuid.UUID) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM tasks_task WHERE id = %s)", [task_id])
        return cursor.fetchone()[0]
