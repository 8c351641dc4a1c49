"""The query parameters of the log: what `/api/audit` searches for, and which past a task is read at."""

from dataclasses import dataclass
from datetime import datetime

from django.apps import apps

from audit.api.queries import Search
from taskpulse.errors import InvalidQuery
from tasks.api.filters import refuse_unknown, words, wrong_value
from tasks.api.validation import Wrong, due_at, task_id
from tasks.audited import AuditedModel
from tasks.events import ACTIONS

PARAMETERS = ("task", "actor", "type", "limit", "cursor")
_ONCE = ("version", "as_of")
_MOST_VALUES = 50
_MOST_VERSION = 2**63 - 1
_A_TIME = "a time with its zone as 2026-01-15T10:30:00Z, its + written as %2B"
_ACTOR_LENGTH = 200


def event_types() -> list[str]:
    """The types that the audited models of this installation cause."""
    subjects = sorted(model.subject_type for model in apps.get_models() if issubclass(model, AuditedModel))
    return [f"{subject}.{action}" for subject in subjects for action in ACTIONS]


def of_entries(query, user_id: int) -> Search:
    """What a query string asks for. Raises InvalidQuery."""
    refuse_unknown(query, PARAMETERS)
    search, errors = Search(), []
    types = event_types()
    rules = {
        "task": (search.tasks, task_id, "the id of a task"),
        "actor": (search.actors, lambda value: _actor(value, user_id), "the id of an actor, as entries show it, or me"),
        "type": (search.types, lambda value: value if value in types else None, "one of " + ", ".join(types)),
    }
    for name, (found, rule, expected) in rules.items():
        values = words(query, name)
        if len(values) > _MOST_VALUES:
            errors.append({"parameter": name, "detail": f"{name}: expected at most {_MOST_VALUES} values."})
            continue
        for value in values:
            taken = rule(value)
            if taken is None:
                errors.append(wrong_value(name, value, expected))
            else:
                found.append(taken)
    if errors:
        raise InvalidQuery(errors)
    return search


def _actor(value: str, user_id: int) -> str | None:
    if value == "me":
        return str(user_id)
    return value if 1 <= len(value) <= _ACTOR_LENGTH and "\x00" not in value else None


@dataclass(frozen=True, slots=True)
class Past:
    """One of the two is None."""

    version: int | None
    as_of: datetime | None


def of_past(query) -> Past:
    """The version or the moment at which to read a task. Raises InvalidQuery."""
    _refuse_unknown(query, ("version", "as_of"))
    errors, version = [], None
    moment = _moment(query, "as_of", errors)
    if "version" in query:
        written = query["version"]
        version = int(written) if written.isascii() and written.isdigit() and len(written) <= 19 else 0
        if not 1 <= version <= _MOST_VERSION:
            errors.append(wrong_value("version", written, "a whole number from 1"))
        if "as_of" in query:
            errors.append({"parameter": "version", "detail": "version: expected it or as_of, not both."})
    if not ("version" in query or "as_of" in query):
        errors.append({"parameter": "version", "detail": "version: expected it, or as_of."})
    if errors:
        raise InvalidQuery(errors)
    return Past(version, moment)


def _refuse_unknown(query, known: tuple[str, ...]) -> None:
    refuse_unknown(query, known)
    twice = [name for name in _ONCE if len(query.getlist(name)) > 1]
    if twice:
        raise InvalidQuery([{"parameter": name, "detail": f"{name}: given more than once."} for name in twice])


def _moment(query, name: str, errors: list[dict]) -> datetime | None:
    if name not in query:
        return None
    try:
        return due_at(query[name])
    except Wrong:
        errors.append(wrong_value(name, query[name], _A_TIME))
        return None
