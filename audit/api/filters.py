"""The query parameters of the log: what `/api/audit` searches for, and which past a task is read at."""

import re
from dataclasses import dataclass
from datetime import datetime

from django.apps import apps
from django.contrib.auth import get_user_model
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from audit.api.search import Search
from taskpulse.errors import InvalidQuery
from tasks.api.filters import A_MOMENT, given_twice, one_of, refuse_unknown, words, wrong_value
from tasks.api.validation import Wrong, due_at, task_id
from tasks.audited import AuditedModel
from tasks.events import ACTIONS

PARAMETERS = ("event", "task", "actor", "type", "request_id", "changed", "since", "until", "limit", "cursor")
_ONCE = ("since", "until", "as_of", "version")
# What an act without a row is called: audit.redacted, audit.dead_letter.discarded …
ACT = r"audit(\.[a-z_]{1,50}){1,3}"
# No index bears these alone.
_WITHIN = ("type", "request_id", "changed")
TEXT_LENGTH = 200
_MOST_VERSION = 2**63 - 1


def _models() -> list[type[AuditedModel]]:
    return sorted((m for m in apps.get_models() if issubclass(m, AuditedModel)), key=lambda model: model.subject_type)


def event_types() -> list[str]:
    """The types that the audited models of this installation cause."""
    return [f"{model.subject_type}.{action}" for model in _models() for action in ACTIONS]


def fields() -> list[str]:
    """The fields whose changes the events of this installation name."""
    return sorted({field.name for model in _models() for field in model._meta.concrete_fields} - AuditedModel.derived)


def of_entries(query, user_id: int) -> Search:
    """What a query string asks for. Raises InvalidQuery."""
    _refuse_unknown(query, PARAMETERS)
    search, errors = Search(), []
    types, names = event_types(), fields()
    rules = {
        "event": (search.events, task_id, _("the id of an event")),
        "task": (search.tasks, task_id, _("the id of a task")),
        "actor": (
            search.actors,
            lambda value: _actor(value, user_id),
            _("an actor's id as entries show it, a user's name, or me"),
        ),
        "type": (search.types, lambda value: _type(value, types), _type_expected(types)),
        "request_id": (search.request_ids, _text, format_lazy(_("text of 1 to {most} characters"), most=TEXT_LENGTH)),
        "changed": (search.changed, lambda value: value if value in names else None, one_of(names)),
    }
    for name, (found, rule, expected) in rules.items():
        try:
            values = words(query, name)
        except InvalidQuery as wrong:
            errors += wrong.errors
            continue
        for value in values:
            taken = rule(value)
            if taken is None:
                errors.append(wrong_value(name, value, expected))
            else:
                found.append(taken)
    search.since, search.until = (_moment(query, name, errors) for name in ("since", "until"))
    errors += _impossible(query, search)
    if errors:
        raise InvalidQuery(errors)
    search.actors = _with_users(search.actors)
    return search


def _impossible(query, search: Search) -> list[dict]:
    errors = []
    if search.since and search.until and search.since >= search.until:
        errors.append({"parameter": "until", "detail": _("until: expected a time after since.")})
    if not any(name in query for name in ("event", "task", "since")):
        detail = _("{name}: needs a narrower search; add task, or since (and until) for a time span.")
        errors += [{"parameter": name, "detail": format_lazy(detail, name=name)} for name in _WITHIN if name in query]
    return errors


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
            errors.append(wrong_value("version", written, _("a whole number from 1")))
        if "as_of" in query:
            errors.append({"parameter": "version", "detail": _("version: expected it or as_of, not both.")})
    if not ("version" in query or "as_of" in query):
        errors.append({"parameter": "version", "detail": _("version: expected it, or as_of.")})
    if errors:
        raise InvalidQuery(errors)
    return Past(version, moment)


def _refuse_unknown(query, known: tuple[str, ...]) -> None:
    refuse_unknown(query, known)
    twice = [name for name in _ONCE if len(query.getlist(name)) > 1]
    if twice:
        raise InvalidQuery([given_twice(name) for name in twice])


def _moment(query, name: str, errors: list[dict]) -> datetime | None:
    if name not in query:
        return None
    try:
        return due_at(query[name])
    except Wrong:
        errors.append(wrong_value(name, query[name], A_MOMENT))
        return None


def _type_expected(types: list[str]):
    return format_lazy(_("one of {values}, or an act as audit.redacted"), values=", ".join(types))


def _type(value: str, known: list[str]) -> str | None:
    return value if value in known or re.fullmatch(ACT, value) else None


def _text(value: str) -> str | None:
    return value if 1 <= len(value) <= TEXT_LENGTH and "\x00" not in value else None


def _actor(value: str, user_id: int) -> str | None:
    return str(user_id) if value == "me" else _text(value)


def _with_users(actors: list[str]) -> list[str]:
    """With the ids of the users of these names; one statement if there can be any. Digits are an id, and no user's name holds
    the colon of the other actors."""
    names = [value for value in actors if not value.isdigit() and ":" not in value]
    if not names:
        return actors
    ids = get_user_model().objects.filter(username__in=names).values_list("pk", flat=True)
    return list(dict.fromkeys([*actors, *map(str, ids)]))
