"""The statements of the task API. PostgreSQL writes the JSON of what is read: loading times and UUIDs into Python and
writing them out again costs several times as much. The tests hold it against `Task.document()`.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid

from django.contrib.auth import get_user_model
from django.db import connection

from tasks.api.filters import Alternative, Condition
from tasks.api.pagination import Page, Slice, cut
from tasks.models import Task


def utc(column: str) -> str:
    """RFC 3339 in UTC with six digits: `taskpulse_time()`, written out so that PostgreSQL need not call a function."""
    return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


_DOCUMENT = f"""
SELECT CASE WHEN a.id IS NOT NULL THEN json_build_object('id', a.id::text, 'name', a.username) END AS assignee,
  t.category, {utc("t.completed_at")} AS completed_at, {utc("t.created_at")} AS created_at,
  CASE WHEN c.id IS NOT NULL THEN json_build_object('id', c.id::text, 'name', c.username) END AS created_by,
  t.description, {utc("t.due_at")} AS due_at, t.id, t.labels, t.parent_id AS parent, t.priority, t.status, t.summary, t.title,
  {utc("t.updated_at")} AS updated_at, t.version"""
_PEOPLE = "LEFT JOIN auth_user a ON a.id = t.assignee_id LEFT JOIN auth_user c ON c.id = t.created_by_id"
_ONE = f"""SELECT t.version, row_to_json(d)::text FROM tasks_task t {_PEOPLE}
CROSS JOIN LATERAL ({_DOCUMENT}) d WHERE t.id = %s"""


def read(task_id: uuid.UUID) -> tuple[int, str] | None:
    """A task's version and JSON; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_ONE, [task_id])
        return cursor.fetchone()


def page(conditions: list[Condition], at: Page) -> Slice:
    """A page of tasks by id; one statement."""
    order = "ASC" if at.backward else "DESC"
    rows, parameters = _rows(conditions, at, order)
    sql = f"""SELECT t.id::text, row_to_json(d)::text FROM ({rows}) t {_PEOPLE}
CROSS JOIN LATERAL ({_DOCUMENT}) d ORDER BY t.id {order}"""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        found = cut(cursor.fetchall(), at)
    return Slice(found.texts, _number(found.newer), _number(found.older))


def _number(key: str | None) -> int | None:
    return None if key is None else int(key.replace("-", ""), 16)


def _rows(conditions: list[Condition], at: Page, order: str) -> tuple[str, list]:
    """The first condition that an index serves in the list's order leads. With several values each gets a branch of its
    own, so that the index gives each branch its first rows; `IN` would sort all that match, or scan all that do not."""
    leading = next((condition for condition in conditions if condition.ordered), None)
    common, common_parameters = [], []
    if at.key is not None:
        common.append(f"t.id {'>' if at.backward else '<'} %s")
        common_parameters.append(uuid.UUID(int=at.key))
    for condition in conditions:
        if condition is not leading:
            common.append("(" + " OR ".join(one.sql for one in condition.alternatives) + ")")
            common_parameters += [value for one in condition.alternatives for value in one.values]
    # The limit is a literal: for a parameter PostgreSQL's generic plan assumes a tenth of the table.
    end = f"t.id {order} LIMIT {at.limit + 1}"
    branches, parameters = [], []
    for one in leading.alternatives if leading else [Alternative("", [])]:
        where = " AND ".join([one.sql, *common] if one.sql else common)
        first = f"{one.null_column} {'DESC' if at.backward else 'ASC'}, " if one.null_column else ""
        branches.append(f"SELECT t.* FROM tasks_task t {'WHERE ' + where if where else ''} ORDER BY {first}{end}")
        parameters += [*one.values, *common_parameters]
    if len(branches) == 1:
        return branches[0], parameters
    union = " UNION ALL ".join(f"({branch})" for branch in branches)
    return f"SELECT t.* FROM ({union}) t ORDER BY {end}", parameters


_FIELDS = [field.attname for field in Task._meta.concrete_fields]
_LOCK = f"""SELECT {", ".join("t." + field.column for field in Task._meta.concrete_fields)}, a.username, c.username
FROM tasks_task t {_PEOPLE} WHERE t.id = %s FOR UPDATE OF t"""


def lock(task_id: uuid.UUID) -> Task | None:
    """The task with the names of its people, its row locked until the transaction ends; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [task_id])
        row = cursor.fetchone()
    if row is None:
        return None
    task = Task.from_db("default", _FIELDS, row[:-2])
    for name, username in (("assignee", row[-2]), ("created_by", row[-1])):
        key = getattr(task, f"{name}_id")
        # Where the row was changed while this waited for its lock, PostgreSQL reads the row anew but not what is joined to
        # it (PostgreSQL documentation 13.2.1): a key without a name is looked up when the name is needed.
        if key is None or username is not None:
            task._state.fields_cache[name] = username and person(key, username)
    return task


def person(key: int, username: str):
    return get_user_model().from_db("default", ["id", "username"], [key, username])


_REFERENCES = """SELECT (SELECT username FROM auth_user WHERE id = %s AND is_active),
  p.id IS NOT NULL, p.parent_id IS NOT NULL FROM (VALUES (1)) one LEFT JOIN tasks_task p ON p.id = %s"""


def references(assignee_id: int | None, parent_id: uuid.UUID | None) -> tuple[str | None, bool, bool]:
    """The name of an active person, whether the parent is there, whether it is a subtask; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_REFERENCES, [assignee_id, parent_id])
        return cursor.fetchone()
