"""The rules of a task's writable fields, each with the sentence that says what was expected.

A rule takes the value as JSON gave it and returns what the model stores; it raises Wrong. The database checks the same
rules again (CHECK constraints, triggers); `constraint_errors` turns its refusals into the same problem.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from django.db import DataError
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from tasks.around import BODY_LENGTH
from tasks.models import (
    CATEGORY_LENGTH,
    DESCRIPTION_LENGTH,
    LABEL_LENGTH,
    LABELS,
    SUMMARY_LENGTH,
    TITLE_LENGTH,
    Priority,
    Status,
    Task,
)


class Wrong(ValueError):
    """The message is for the caller; `path` leads to the wrong member within the field."""

    def __init__(self, detail: str, path: tuple = ()):
        super().__init__(detail)
        self.path = path


class NoSuchTime(Wrong):
    """Written as a time, of a day or an hour that there is not."""


def pointer(*path) -> str:
    """A JSON Pointer as a URI fragment (RFC 6901 §6)."""
    tokens = (str(token).replace("~", "~0").replace("/", "~1") for token in path)
    return "#" + "".join("/" + quote(token.encode("utf-8", "surrogatepass"), safe="~!$&'()*+,;=:@") for token in tokens)


def text(value, least: int, most: int, path: tuple = ()) -> str:
    """Any Unicode text that PostgreSQL and UTF-8 can hold: neither U+0000 nor a lone surrogate."""
    if type(value) is not str:
        raise Wrong("expected text", path)
    if not least <= len(value) <= most:
        detail = _("expected {least} to {most} characters, got {got}")
        raise Wrong(format_lazy(detail, least=least, most=most, got=len(value)), path)
    if "\x00" in value:
        raise Wrong("the character U+0000 cannot be stored", path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Wrong("a lone surrogate is no character", path) from None
    return value


def title(value) -> str:
    """Trimmed; the length counts after that."""
    return text(value.strip() if type(value) is str else value, 1, TITLE_LENGTH)


def description(value) -> str:
    return text(value, 0, DESCRIPTION_LENGTH)


def _or_none(most: int):
    def rule(value) -> str | None:
        """Empty text means none, as in the console."""
        return None if value is None else text(value, 0, most) or None

    return rule


def _one_of(values):
    allowed = frozenset(values)
    detail = format_lazy(_("expected one of {values}"), values=", ".join(values))

    def rule(value) -> str:
        if type(value) is not str or value not in allowed:
            raise Wrong(detail)
        return value

    return rule


def labels(value) -> list[str]:
    """Without repetition, in the order given."""
    if type(value) is not list:
        raise Wrong("expected a list of labels")
    if len(value) > LABELS * 10:
        detail = _("expected at most {most} labels")
        raise Wrong(format_lazy(detail, most=LABELS))
    kept = list(dict.fromkeys(text(label, 1, LABEL_LENGTH, (index,)) for index, label in enumerate(value)))
    if len(kept) > LABELS:
        detail = _("expected at most {most} labels, got {got}")
        raise Wrong(format_lazy(detail, most=LABELS, got=len(kept)))
    return kept


# An object that names no id: the person stays, if there is one (RFC 7396 merges objects member by member).
SAME_PERSON = object()


def whole(value):
    """JSON has one kind of number: 7.0 is 7. What is no whole number is given back as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def assignee(value):
    """The id of a person, as a number, as digits, or as the object that a task shows; None or SAME_PERSON."""
    path = ()
    if type(value) is dict:
        for name in value:
            if name not in {"id", "name"}:
                raise Wrong("no such field; expected id", (name,))
        if "id" not in value:
            return SAME_PERSON
        value, path = value["id"], ("id",)
    if value is None and not path:
        return None
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    value = whole(value)
    if type(value) is not int:
        raise Wrong("expected the id of a person, or null", path)
    if not 0 < value < 2**31:
        detail = _("there is no person {person}")
        raise Wrong(format_lazy(detail, person=str(value)[:40]), path)
    return value


def parent(value) -> uuid.UUID | None:
    if value is None:
        return None
    found = task_id(value) if type(value) is str else None
    if found is None:
        raise Wrong("expected the id of a task, or null")
    return found


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def task_id(value: str) -> uuid.UUID | None:
    """None for what is no UUID in its usual form."""
    return uuid.UUID(value) if _UUID.fullmatch(value) else None


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,12})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)


def due_at(value) -> datetime | None:
    """RFC 3339 §5.6 with its zone; digits beyond the microsecond are cut."""
    if value is None:
        return None
    written = value.upper() if type(value) is str and len(value) <= 64 else ""
    if not _RFC3339.fullmatch(written):
        raise Wrong('expected a date and time with a zone, as "2026-01-15T10:30:00Z" or "2026-01-15T10:30:00+02:00", or null')
    try:
        return datetime.fromisoformat(written).astimezone(UTC)
    except OverflowError:
        raise Wrong("expected a time between the years 1 and 9999 in UTC") from None
    except ValueError as error:
        raise NoSuchTime(format_lazy(_("there is no such time: {why}"), why=str(error))) from None


def comment_body(value) -> str:
    """As written, and not blank."""
    written = text(value, 1, BODY_LENGTH)
    if not written.strip():
        detail = _("expected 1 to {most} characters, not all of them white space")
        raise Wrong(format_lazy(detail, most=BODY_LENGTH))
    return written


RULES = {
    "title": title,
    "description": description,
    "priority": _one_of(Priority.values),
    "status": _one_of(Status.values),
    "category": _or_none(CATEGORY_LENGTH),
    "summary": _or_none(SUMMARY_LENGTH),
    "labels": labels,
    "assignee": assignee,
    "parent": parent,
    "due_at": due_at,
}
# What a task shows and a body may bring back; ignored (AIP-203).
OUTPUT_ONLY = frozenset({"id", "version", "created_by", "created_at", "updated_at", "completed_at"})
COMMENT_OUTPUT_ONLY = frozenset({"id", "version", "task", "author", "created_at", "updated_at"})
COMMENT_REQUIRED = format_lazy(_("required: 1 to {most} characters, not all of them white space"), most=BODY_LENGTH)
# What null makes of the fields that cannot be null: what a new task has. It removes a member (RFC 7396), and a task
# without it is one that was created without it. Only the title has no such value.
_REMOVED = {name: Task._meta.get_field(name).get_default for name in ("description", "labels", "priority", "status")}
MOST_ERRORS = 100


def required(most: int):
    """What is wrong where a text is missing."""
    return format_lazy(_("required: 1 to {most} characters"), most=most)


class Shape(NamedTuple):
    """What bodies of a kind may hold: a rule for each field, what is ignored, and what null makes of a field in a change."""

    kind: str
    rules: Mapping[str, Callable]
    output_only: frozenset[str]
    removed: Mapping[str, Callable]


TASK = Shape("task", RULES, OUTPUT_ONLY, _REMOVED)


def validate(body: dict, partial: bool = False, shape: Shape = TASK) -> tuple[dict, list[dict]]:
    """What the body's fields are to be, and every wrong one as `{"pointer", "detail"}`. In a `partial` body null removes."""
    values, errors = {}, []
    for name, value in body.items():
        if value is None and partial and name in shape.removed:
            values[name] = shape.removed[name]()
            continue
        rule = shape.rules.get(name)
        if rule is None:
            if name not in shape.output_only:
                detail = format_lazy(_("no such field; there are {names}"), names=", ".join(shape.rules))
                errors.append({"pointer": pointer(name[:100]), "detail": detail})
            continue
        try:
            values[name] = rule(value)
        except Wrong as wrong:
            errors.append({"pointer": pointer(name, *(str(token)[:100] for token in wrong.path)), "detail": wrong.args[0]})
    return values, errors[:MOST_ERRORS]


def _length(least: int, most: int):
    return format_lazy(_("expected {least} to {most} characters"), least=least, most=most)


_LABELS = _("expected at most {most} labels of 1 to {length} characters")
_CONSTRAINTS = {
    "task_title_not_empty": ("title", _length(1, TITLE_LENGTH)),
    "task_description_length": ("description", _length(0, DESCRIPTION_LENGTH)),
    "task_summary_length": ("summary", _length(0, SUMMARY_LENGTH)),
    "task_priority": ("priority", format_lazy(_("expected one of {values}"), values=", ".join(Priority.values))),
    "task_status": ("status", format_lazy(_("expected one of {values}"), values=", ".join(Status.values))),
    "task_status_transition": ("status", _("a task that is completed cannot become pending; expected in_progress")),
    "task_labels": (
        "labels",
        format_lazy(_("expected at most {most} labels of 1 to {length} characters"), most=LABELS, length=LABEL_LENGTH),
    ),
    "task_years": ("due_at", _("expected a time between the years 1 and 9999 in UTC")),
    "task_not_its_own_parent": ("parent", _("a task cannot be its own parent")),
    "task_parent_one_level": ("parent", _("subtasks are one level deep: the parent is a subtask, or this task has subtasks")),
    "tasks_task_assignee_id": ("assignee", _("there is no such person")),
    "tasks_task_parent_id": ("parent", _("there is no such task")),
    "label_name": ("name", _("there is a label of this name already")),
}


def constraint(name: str) -> dict:
    """What is wrong where a constraint would not hold."""
    field, detail = _CONSTRAINTS[name]
    return {"pointer": pointer(field), "detail": detail}


def constraint_errors(error) -> list[dict] | None:
    """What PostgreSQL's refusal means for the body, by the constraint's name; None if it is not about the body.

    Foreign keys are named by Django with a hash at the end.
    """
    if isinstance(error, DataError):
        # Whatever the rules let through and PostgreSQL cannot store.
        return [{"pointer": "#", "detail": _("a value cannot be stored")}]
    name = getattr(getattr(error.__cause__, "diag", None), "constraint_name", None) or ""
    for known in _CONSTRAINTS:
        if name == known or (known.startswith("tasks_task_") and name.startswith(known)):
            return [constraint(known)]
    return None
