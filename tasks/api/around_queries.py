"""The statements of comments and watchers; PostgreSQL writes the JSON of what is read, as in `tasks.api.queries`."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid

from django.db import connection

from tasks.api import members
from tasks.api.pagination import NumberKeys, Page, Slice, cut
from tasks.api.queries import person
from tasks.events import rfc3339_sql
from tasks.models import Comment, Watcher

# The ids, which are time-ordered, as numbers.
KEYS = NumberKeys(2**128 - 1)
_TIMES = f"{rfc3339_sql('r.created_at')} AS created_at, r.id, r.task_id AS task, {rfc3339_sql('r.updated_at')} AS updated_at"
_PERSON = "json_build_object('id', u.id::text, 'name', u.username)"
_COMMENTS = ("tasks_comment", "author_id", f"SELECT {_PERSON} AS author, r.body, {_TIMES}, r.version")
_WATCHERS = ("tasks_watcher", "user_id", f"SELECT {_TIMES}, {_PERSON} AS user, r.version")


def _page(source: tuple[str, str, str], task_id: uuid.UUID, at: Page) -> Slice:
    """Newest first; one statement."""
    table, key, document = source
    order, beyond = ("ASC", ">") if at.backward else ("DESC", "<")
    after = "" if at.key is None else f"AND r.id {beyond} %s"
    sql = f"""SELECT r.id, row_to_json(d)::text FROM (
  SELECT * FROM {table} r WHERE r.task_id = %s {after} ORDER BY r.id {order} LIMIT {at.limit + 1}
) r JOIN auth_user u ON u.id = r.{key} CROSS JOIN LATERAL ({document}) d ORDER BY r.id {order}"""
    with connection.cursor() as cursor:
        cursor.execute(sql, [task_id] if at.key is None else [task_id, uuid.UUID(int=at.key)])
        return cut([(found.int, text) for found, text in cursor.fetchall()], at)


def comments(task_id: uuid.UUID, at: Page) -> Slice:
    return _page(_COMMENTS, task_id, at)


def watchers(task_id: uuid.UUID, at: Page) -> Slice:
    return _page(_WATCHERS, task_id, at)


_TAG = members.tag("r", "u.username")
_COMMENT = f"""SELECT {_TAG}, {members.unless_known(_TAG, "row_to_json(d)::text")} FROM tasks_comment r
JOIN auth_user u ON u.id = r.author_id CROSS JOIN LATERAL ({_COMMENTS[2]}) d WHERE r.id = %s AND r.task_id = %s"""


def comment(task_id: uuid.UUID, comment_id: uuid.UUID, known: list[str] | None = None) -> tuple[str, str | None] | None:
    """A comment's entity tag and JSON, as `queries.read` has them, if it is one of this task; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_COMMENT, [known or [], comment_id, task_id])
        return cursor.fetchone()


def _names(model) -> tuple[list[str], str]:
    fields = model._meta.concrete_fields
    return [field.attname for field in fields], ", ".join(f"r.{field.column}" for field in fields)


_COMMENT_FIELDS, _COMMENT_COLUMNS = _names(Comment)
_LOCK = f"""SELECT {_COMMENT_COLUMNS}, u.username FROM tasks_comment r JOIN auth_user u ON u.id = r.author_id
WHERE r.id = %s AND r.task_id = %s FOR UPDATE OF r"""


def lock_comment(task_id: uuid.UUID, comment_id: uuid.UUID) -> Comment | None:
    """The comment with its author's name, its row locked until the transaction ends; one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [comment_id, task_id])
        row = cursor.fetchone()
    if row is None:
        return None
    found = Comment.from_db("default", _COMMENT_FIELDS, row[:-1])
    found._state.fields_cache["author"] = person(found.author_id, row[-1])
    return found


def task_exists(task_id: uuid.UUID) -> bool:
    return _one("SELECT true FROM tasks_task WHERE id = %s", [task_id]) is not None


def lock_task(task_id: uuid.UUID) -> bool:
    """Whether the task is there; then nobody changes or deletes it, nor locks it thus, until the transaction ends."""
    return _one("SELECT true FROM tasks_task WHERE id = %s FOR NO KEY UPDATE", [task_id]) is not None


_WATCHER_FIELDS, _WATCHER_COLUMNS = _names(Watcher)
_WATCHER = f"""SELECT u.username, u.is_active, {_WATCHER_COLUMNS} FROM auth_user u
LEFT JOIN tasks_watcher r ON r.user_id = u.id AND r.task_id = %s WHERE u.id = %s"""


def watcher(task_id: uuid.UUID, user_id: int) -> tuple[object | None, Watcher | None]:
    """The person, with `is_active`, if there is one, and the watcher that they are, if they watch; one statement."""
    row = _one(_WATCHER, [task_id, user_id])
    if row is None:
        return None, None
    username, is_active, *values = row
    somebody = person(user_id, username)
    somebody.is_active = is_active
    if values[_WATCHER_FIELDS.index("id")] is None:
        return somebody, None
    found = Watcher.from_db("default", _WATCHER_FIELDS, values)
    found._state.fields_cache["user"] = somebody
    return somebody, found


def _one(sql: str, parameters: list) -> tuple | None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()
