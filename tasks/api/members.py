"""Which members of a task's document are shown, and which of them in full: `?fields=` and `?expand=`.

PostgreSQL writes the JSON of what is read: loading times and UUIDs into Python and writing them out again costs several
times as much. The tests hold it against `Task.document()`.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code)

from functools import lru_cache
from typing import NamedTuple

from taskpulse.errors import InvalidQuery
from tasks.api.filters import one_of, words, wrong_value
from tasks.events import rfc3339_sql

PARAMETERS = ("fields", "expand")
SUBTASKS = 50
MOST_WITH_SUBTASKS = 100


def _person(alias: str, more: str = "") -> str:
    return f"CASE WHEN {alias}.id IS NOT NULL THEN json_build_object('id', {alias}.id::text, 'name', {alias}.username{more}) END"


def tag(alias: str, *names: str) -> str:
    """The entity tag of a row, of whose people the document shows these names: `preconditions.etag`."""
    version = f"{alias}.version"
    if not names:
        return f"""'"' || {version} || '"'"""
    shown = " || chr(10) || ".join(f"coalesce({name}, '')" for name in names)
    return f"""'"' || {version} || '-' || to_hex(crc32(convert_to({shown}, 'UTF8'))) || '"'"""


def unless_known(tag: str, text: str) -> str:
    """The text, or NULL where the parameter, an array, has the entity tag (`preconditions.known_tags`). CASE evaluates no branch
    that it does not take, so that nothing is written for it either."""
    return f"CASE WHEN NOT ARRAY['*', {tag}] && %s::text[] THEN {text} END"


# In the order of the document.
FIELDS = {
    "assignee": _person("a"),
    "category": "t.category",
    "completed_at": rfc3339_sql("t.completed_at"),
    "created_at": rfc3339_sql("t.created_at"),
    "created_by": _person("c"),
    "description": "t.description",
    "due_at": rfc3339_sql("t.due_at"),
    "id": "t.id",
    "labels": "t.labels",
    "parent": "t.parent_id",
    "priority": "t.priority",
    "status": "t.status",
    "summary": "t.summary",
    "title": "t.title",
    "updated_at": rfc3339_sql("t.updated_at"),
    "version": "t.version",
}
_JOINS = {
    "assignee": "LEFT JOIN auth_user a ON a.id = t.assignee_id",
    "created_by": "LEFT JOIN auth_user c ON c.id = t.created_by_id",
}
PEOPLE = " ".join(_JOINS.values())


def _joined(columns: dict[str, str]) -> str:
    """What follows FROM … t, so that `d` is the document."""
    joins = " ".join(sql for name, sql in _JOINS.items() if name in columns)
    selected = ", ".join(f"{sql} AS {name}" for name, sql in sorted(columns.items()))
    return f"{joins} CROSS JOIN LATERAL (SELECT {selected}) d"


EXPANDED = {
    "assignee": _person("a", ", 'full_name', trim(a.first_name || ' ' || a.last_name)"),
    # In the order of the task; one that nobody has described has no colour.
    "labels": """(SELECT coalesce(json_agg(json_build_object('colour', l.colour, 'description', coalesce(l.description, ''),
        'name', w.name) ORDER BY w.place), '[]')
      FROM unnest(t.labels) WITH ORDINALITY w (name, place) LEFT JOIN tasks_label l ON l.name = w.name)""",
    # Of the subtasks; of the present, so that it changes without a version of the task.
    "progress": """(SELECT json_build_object('completed', count(*) FILTER (WHERE s.status = 'completed'), 'total', count(*))
      FROM tasks_task s WHERE s.parent_id = t.id)""",
    # The oldest first, as people write down steps.
    "subtasks": f"""(SELECT coalesce(json_agg(row_to_json(d) ORDER BY t.created_at, t.id), '[]') FROM (
        SELECT s.* FROM tasks_task s WHERE s.parent_id = t.id ORDER BY s.created_at, s.id LIMIT {SUBTASKS}
      ) t {_joined(FIELDS)})""",
}


class Members(NamedTuple):
    """`fields`: all where it is empty. What is expanded is shown in any case."""

    fields: frozenset[str] = frozenset()
    expanded: frozenset[str] = frozenset()


ALL = Members()


@lru_cache(maxsize=256)
def document(members: Members) -> str:
    """What follows `FROM … t` in a statement, so that `row_to_json(d)` is the document."""
    columns = {name: sql for name, sql in FIELDS.items() if not members.fields or name in members.fields}
    return _joined(columns | {name: EXPANDED[name] for name in members.expanded})


def read(query, errors: list[dict]) -> Members:
    """What a query string asks to be shown; what is wrong is added to `errors`."""
    if not ("fields" in query or "expand" in query):
        return ALL
    return Members(_names(query, "fields", FIELDS, errors), _names(query, "expand", EXPANDED, errors))


def _names(query, parameter: str, known, errors: list[dict]) -> frozenset[str]:
    try:
        names = words(query, parameter) if parameter in query else []
    except InvalidQuery as wrong:
        errors += wrong.errors
        return frozenset()
    errors += [wrong_value(parameter, name, one_of(known), known) for name in names if name not in known][:100]
    return frozenset(names)
