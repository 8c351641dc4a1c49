"""Writes: one transaction each, tried again when PostgreSQL asks for it or another's change came between, its refusals told as
problems."""

import random

from django.db import DataError, IntegrityError, OperationalError, transaction
from django.http import HttpResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse import turns
from taskpulse.errors import InvalidBody, Problem
from tasks import context, transitions
from tasks.api import idempotency, preconditions, queries, validation
from tasks.audited import AuditedModel, StaleObjectError
from tasks.foretold import Foretelling
from tasks.models import Task

_TRIES = 4
# serialization_failure, deadlock_detected (PostgreSQL, appendix A): the transaction may succeed if it runs again.
_AGAIN = {"40001", "40P01"}


def answer(request, write) -> HttpResponse:
    """What an unsafe request is answered: the finished response that `write()` returns, which is run in one transaction.

    `write()` may run several times, each time from the beginning, and not at all where the request bears an
    Idempotency-Key that is known (`idempotency.once`). Every unsafe view answers by this function alone.
    Raises InvalidBody for what a constraint refuses, and whatever `write()` raises; nothing is written then.
    """
    once = idempotency.once(request, write)
    # An answer that is kept for a key is kept before the commit.
    may_foretell = once is write
    for attempt in range(1, _TRIES + 1):
        foretelling = Foretelling(may_foretell and attempt == 1)
        try:
            with foretelling, transaction.atomic():
                response = once()
            foretelling.fill(response)
            return response
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in _AGAIN or attempt == _TRIES:
                raise
            turns.pause(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311 (spreading load, not a secret)
        except StaleObjectError:
            if attempt == _TRIES:
                raise
        except (IntegrityError, DataError) as error:
            if foretelling.was_used:  # again, one statement after the other, to see which is refused
                continue
            errors = validation.constraint_errors(error)
            if errors is None:
                raise
            raise InvalidBody(errors) from error


def check_transition(task: Task, values: dict) -> None:
    """Raises Problem 409 if the task, as it is, may not get the status that is given."""
    if "status" in values and transitions.refusal(task.status, values["status"]):
        told = {"before": task.status, "after": values["status"], "expected": " / ".join(transitions.NEXT[task.status])}
        wrong = format_lazy(_("a task that is {before} cannot become {after}; expected {expected}"), **told)
        detail = format_lazy(_("A task that is {before} cannot become {after}; expected {expected}. Nothing was changed."), **told)
        raise Problem(409, detail, [{"pointer": "#/status", "detail": wrong}], type="illegal-transition")


# Fields of which any new value is right, whatever the task and others are now.
_PLAIN = frozenset({"title", "description", "priority", "labels", "category", "summary", "due_at"})


def change_unread(key, values: dict) -> Task | None:
    """Changes a task in the statement that reads it, with its event. As with bulk methods no signal is sent. None, and nothing is
    done, where a value has to be looked at beside what is there, or changes nothing, or where there is no such task. Raises
    StaleObjectError where another's change came between: nothing must be committed, and the task be locked before it is read."""
    if not values or not values.keys() <= _PLAIN:
        return None
    with context.captured():
        found = queries.change(key, values)
    if found is not None:
        Task.record([(*found, "updated")], "default")
    return found and found[0]


def assign(task: Task, values: dict, user) -> None:
    """Sets the fields given. Raises InvalidBody for references that lead nowhere; at most one statement, and none when
    neither a new assignee other than the caller nor a new parent is named."""
    values = merged(task.assignee_id, values)
    people = {task.assignee_id: task._state.fields_cache.get("assignee"), user.pk: user}
    person_id, parent_id = values.get("assignee"), values.get("parent")
    unknown_person = person_id is not None and people.get(person_id) is None
    unknown_parent = parent_id is not None and parent_id != task.parent_id
    if unknown_person or unknown_parent:
        name, is_there, is_subtask = queries.references(person_id, parent_id)
        errors = []
        if unknown_person and name is None:
            errors.append(no_person(person_id))
        if unknown_parent and not is_there:
            errors.append(no_parent(parent_id))
        elif unknown_parent and is_subtask:
            errors.append(PARENT_IS_SUBTASK)
        if errors:
            raise InvalidBody(errors)
        if unknown_person:
            people[person_id] = queries.person(person_id, name)
    set_fields(task, values, people)


def merged(assignee_id: int | None, values: dict) -> dict:
    """The values, an assignee's object without an id resolved. Raises InvalidBody if nobody is assigned to stay so."""
    if values.get("assignee") is not validation.SAME_PERSON:
        return values
    if assignee_id is None:
        raise InvalidBody([{"pointer": "#/assignee", "detail": _("expected an id in it")}])
    return {name: value for name, value in values.items() if name != "assignee"}


PARENT_IS_SUBTASK = {"pointer": "#/parent", "detail": _("subtasks are one level deep, and the parent is a subtask")}


def no_person(key: int) -> dict:
    return {"pointer": "#/assignee", "detail": format_lazy(_("there is no active person {person}"), person=key)}


def no_parent(key) -> dict:
    return {"pointer": "#/parent", "detail": format_lazy(_("there is no task {task}"), task=key)}


def set_fields(task: Task, values: dict, people: dict) -> None:
    """Sets checked values; `people` by id has every assignee among them."""
    for name, value in values.items():
        if name == "assignee":
            task.assignee = people[value] if value is not None else None
        elif name == "parent":
            task.parent_id = value
        else:
            setattr(task, name, value)


def document(row: AuditedModel) -> dict:
    """The document of a row whose people are at hand: what its event says, if this request made one."""
    if row.recorded is not None and row.recorded["version"] == row.version:
        return row.recorded
    (found,) = type(row).documents([row])
    return found


def tag(shown: dict) -> str:
    """The entity tag of a document of a task or a comment."""
    people = [shown["author"]] if "author" in shown else [shown["assignee"], shown["created_by"]]
    return preconditions.etag(shown["version"], *(person and person["name"] for person in people))
