"""The filters of `/api/audit`: task, actor, type."""

from django.apps import apps

from audit.api.queries import Search
from taskpulse.errors import InvalidQuery
from tasks.api.filters import refuse_unknown, words, wrong_value
from tasks.api.validation import task_id
from tasks.audited import AuditedModel
from tasks.events import ACTIONS

PARAMETERS = ("task", "actor", "type", "limit", "cursor")
_MOST_VALUES = 50
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
