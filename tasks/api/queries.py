"""The statements of the task API. PostgreSQL writes the JSON of what is read (`tasks.api.members`)."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid

from django.contrib.auth import get_user_model
from django.db import connection

from tasks import people, statements
from tasks.api import members, rows
from tasks.api.listing import Listing
from tasks.api.members import PEOPLE, Members
from tasks.api.pagination import Slice, cut
from tasks.api.search_pages import PlaceKeys, Relevance
from tasks.audited import StaleObjectError
from tasks.models import Task

_TAG = members.tag("t", "a.username", "c.username")
_FOUND = f"FROM tasks_task t {members.document(members.ALL)} WHERE t.id = %s"
_ONE = f"SELECT {_TAG}, row_to_json(d)::text {_FOUND}"
_ONE_UNLESS = f"SELECT {_TAG}, {members.unless_known(_TAG, 'row_to_json(d)::text')} {_FOUND}"


def read(task_id: uuid.UUID, known: list[str] | None = None) -> tuple[str, str | None] | None:
    """A task's entity tag and JSON; one statement. No JSON, and none is made, where `known` has the tag
    (`preconditions.known_tags`)."""
    rows = connection.fetch(_ONE, [task_id]) if known is None else connection.fetch(_ONE_UNLESS, [known, task_id])
    return rows[0] if rows else None


def read_members(task_id: uuid.UUID, shown: Members) -> str | None:
    """The JSON of what is to be shown of a task; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT row_to_json(d)::text FROM tasks_task t {members.document(shown)} WHERE t.id = %s", [task_id])
        row = cursor.fetchone()
    return None if row is None else row[0]


def select(asked: Listing) -> tuple[str, list]:
    """A statement for the rows of a page, as `rows.select`."""
    if isinstance(asked.ordering, Relevance):
        return asked.ordering.select(asked.page)
    return rows.select(asked.filters, asked.ordering, asked.page)


def parts(asked: Listing) -> list[tuple[str, list]]:
    """Statements for the parts of a list, as `rows.parts`; one at least."""
    if isinstance(asked.ordering, Relevance):
        return [select(asked)]
    return rows.parts(asked.filters, asked.ordering, asked.page) or [select(asked)]


def page(asked: Listing) -> Slice:
    """A page of tasks, with the positions from which its neighbours begin; one statement."""
    at, ordering = asked.page, asked.ordering
    selected, parameters = select(asked)
    more = asked.keys.columns() if isinstance(asked.keys, PlaceKeys) else ""
    sql = f"""{rows.with_found(asked.filters)}SELECT row_to_json(d)::text, t.part, t.{ordering.column}::text, t.id::text{more}
FROM ({selected}) t {members.document(asked.members)} ORDER BY {rows.order(ordering, at)}"""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        found = cut([(row[1:], row[0]) for row in cursor.fetchall()], at)
    newer, older = (shown and asked.keys.position(*shown) for shown in (found.newer, found.older))
    return Slice(found.texts, newer, older)


_FIELDS = [field.attname for field in Task._meta.concrete_fields]
_COLUMNS = f"""{", ".join("t." + field.column for field in Task._meta.concrete_fields)}, a.username, c.username"""
_LOCK = f"SELECT {_COLUMNS} FROM tasks_task t {PEOPLE} WHERE t.id = %s FOR UPDATE OF t"
# In the order of their keys, so that two requests cannot each wait for the other.
_LOCK_ALL = f"""SELECT EXISTS (SELECT FROM tasks_task s WHERE s.parent_id = t.id), {_COLUMNS}
FROM tasks_task t {PEOPLE} WHERE t.id = ANY (%s::uuid[]) ORDER BY t.id FOR UPDATE OF t"""


def lock(task_id: uuid.UUID) -> Task | None:
    """The task with the names of its people, its row locked until the transaction ends; one statement."""
    rows = connection.fetch(_LOCK, [task_id])
    return _with_people(rows[0]) if rows else None


_NAMES = ", ".join(f"(SELECT username FROM auth_user WHERE id = new.{key})" for key in ("assignee_id", "created_by_id"))


def change(task_id: uuid.UUID, values: dict) -> tuple[Task, Task] | None:
    """The task with these values, and as it was before; one statement. None if it is not there, or has them already. Raises
    StaleObjectError, and then nothing must be committed, where another's change came between."""
    row = statements.change(Task, "default", task_id, [(Task._meta.get_field(name), values[name]) for name in values], _NAMES)
    if row is None:
        return None
    task, before = _with_people(row[len(_FIELDS) :]), Task.of_values(dict(zip(_FIELDS, row, strict=False)))
    if task.version != before.version + 1:
        raise StaleObjectError(f"task {task_id} was changed at the same time")
    return task, before


def _with_people(row) -> Task:
    task = Task.from_db("default", _FIELDS, row[:-2])
    for name, username in (("assignee", row[-2]), ("created_by", row[-1])):
        key = getattr(task, f"{name}_id")
        # Where the row was changed while this waited for its lock, PostgreSQL reads the row anew but not what is joined to
        # it (PostgreSQL documentation 13.2.1): a key without a name is looked up when the name is needed.
        if key is None or username is not None:
            task._state.fields_cache[name] = username and person(key, username)
    return task


_LENGTHS = " + ".join(f"octet_length(coalesce(t.{name}, ''))" for name in ("title", "description", "summary", "category"))
# The length of a stored text is known without reading it; of what JSON makes of them only if they are not too long by themselves.
_SIZE = f"""SELECT CASE WHEN stored > %(most)s THEN stored ELSE (
  SELECT sum(octet_length(json_build_array(t.title, t.description, t.summary, t.category, t.labels)::text))
  FROM tasks_task t WHERE t.id = ANY (%(keys)s::uuid[])) END
FROM (SELECT sum({_LENGTHS}) AS stored FROM tasks_task t WHERE t.id = ANY (%(keys)s::uuid[])) one"""


def size(keys, most: int) -> int:
    """The bytes that the texts of these tasks have together as JSON, or fewer if these are more than `most` too; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_SIZE, {"keys": _array(keys), "most": most})
        return int(cursor.fetchone()[0] or 0)


def _array(keys) -> str:
    return "{" + ",".join(map(str, keys)) + "}"


def lock_all(keys) -> tuple[dict[uuid.UUID, Task], set[uuid.UUID]]:
    """The tasks of `keys` that are there, each as `lock` gives it, and which of them have subtasks; one statement."""
    found, parents = {}, set()
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_ALL, [_array(keys)])
        for has_subtasks, *row in cursor:
            task = _with_people(row)
            found[task.pk] = task
            if has_subtasks:
                parents.add(task.pk)
    return found, parents


def active_people(keys) -> dict[int, object]:
    """The active people of `keys` by id; one statement."""
    found = get_user_model().objects.filter(pk__in=keys, is_active=True).values_list("pk", "username")
    return {key: person(key, username) for key, username in found}


def person(key: int, username: str):
    return people.of_values(id=key, username=username)


_REFERENCES = """SELECT (SELECT username FROM auth_user WHERE id = %s AND is_active),
  p.id IS NOT NULL, p.parent_id IS NOT NULL FROM (VALUES (1)) one LEFT JOIN tasks_task p ON p.id = %s"""


def references(assignee_id: int | None, parent_id: uuid.UUID | None) -> tuple[str | None, bool, bool]:
    """The name of an active person, whether the parent is there, whether it is a subtask; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_REFERENCES, [assignee_id, parent_id])
        return cursor.fetchone()
