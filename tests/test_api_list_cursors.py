"""Cursors while others write: each task whose place does not change is shown exactly once, in either direction."""

import os
import uuid
from datetime import UTC, datetime, timedelta
from unittest import mock
from urllib.parse import urlencode

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.api import search
from tasks.api.ordering import ORDERINGS
from tasks.models import Priority, Task
from tests.api_client import api, links

pytestmark = pytest.mark.django_db
# `make test-lists` tries as many as it is told.
_examples = settings(max_examples=int(os.environ.get("LIST_EXAMPLES", "20")), suppress_health_check=list(HealthCheck))
_START = datetime(2026, 1, 1, tzinfo=UTC)
_moments = st.integers(0, 4).map(lambda days: _START + timedelta(days=days))
_tasks = st.fixed_dictionaries(
    {
        "created_at": _moments, "due_at": _moments | st.none(), "completed_at": _moments | st.none(),
        "priority": st.sampled_from(Priority.values),
    }
)  # fmt: skip
_writes = st.lists(
    st.tuples(st.just("create"), _tasks) | st.tuples(st.sampled_from(["delete", "move", "touch", "name"]), st.integers(0, 30)),
    max_size=3,
)
# Of a search: half of the tasks there can be, so that those which begin to match meanwhile have room in its frame.
_MATCHES = 7


@pytest.fixture(scope="module")
def caller(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), transaction.atomic():
        yield api()
        transaction.set_rollback(True)


def make(values: dict, title: str = "x", newest: bool = True) -> Task:
    """Ids are in no order but that those of `newest` come after the others, as those of a later time do."""
    status = "completed" if values["completed_at"] else "pending"
    key = uuid.UUID(int=uuid.uuid4().int >> 1 | (newest << 127))
    task = Task(id=key, title=title, status=status, **values)
    task.save(force_insert=True)
    return task


def write(kind: str, what, ordering: str) -> uuid.UUID | None:
    """What a writer does between two pages; the task whose place it changes or that it removes."""
    if kind == "create":
        make(what)
        return None
    task = Task.objects.order_by("id")[what : what + 1].first()
    if task is None:
        return None
    if kind == "delete":
        key = task.pk
        task.delete()
        return key
    if kind == "move":
        # Whatever the ordering: a time that it had not, another priority, another status.
        task.due_at = None if task.due_at else _START + timedelta(days=2)
        task.priority = "high" if task.priority == "low" else "low"
        task.status = "in_progress" if task.status == "completed" else "completed"
        task.save()
        return task.pk
    if kind == "name":
        task.title = "y" if task.title == "x" else "x"
        task.save()
        return task.pk
    task.summary = f"{task.summary}."
    task.save()
    return task.pk if ordering.endswith("updated_at") else None


def walked(caller, path: str, backward: bool, between, ordering: str) -> tuple[list[uuid.UUID], set]:
    """What is shown on the way through all pages, of which the last is the first where it goes backward, and what the writes
    between two of them change."""
    if backward:
        response = caller.get(path)
        while "next" in links(response):
            path = links(response)["next"]
            response = caller.get(path)
    seen, changed, writes = [], set(), iter(between)
    while path:
        response = caller.get(path)
        assert response.status_code == 200, response.content
        seen += [uuid.UUID(task["id"]) for task in response.json()]
        path = links(response).get("prev" if backward else "next")
        for kind, what in next(writes, ()):
            changed.add(write(kind, what, ordering))
    return seen, changed


_between = st.lists(_writes, min_size=12, max_size=12)


@_examples
@given(
    rows=st.lists(_tasks, max_size=14), between=_between, ordering=st.sampled_from(list(ORDERINGS)), limit=st.integers(1, 4),
    backward=st.booleans(),
)  # fmt: skip
def test_what_keeps_its_place_is_shown_exactly_once(caller, rows, between, ordering, limit, backward):
    with transaction.atomic():
        there = {make(row).pk for row in rows}
        seen, changed = walked(caller, f"/api/tasks?ordering={ordering}&limit={limit}", backward, between, ordering)
        transaction.set_rollback(True)
    for key in there - changed:
        assert seen.count(key) == 1, (key, ordering)


@_examples
@given(
    rows=st.lists(st.tuples(_tasks, st.sampled_from(["x", "x x", "y"])), min_size=_MATCHES, max_size=14), between=_between,
    ordering=st.sampled_from([*ORDERINGS, None]), limit=st.integers(1, 4), backward=st.booleans(),
)  # fmt: skip
def test_what_the_first_page_of_a_search_found_is_shown_exactly_once(caller, rows, between, ordering, limit, backward):
    asked = {"q": "x ", "limit": limit} | ({"ordering": ordering} if ordering else {})
    with transaction.atomic(), mock.patch.object(search, "MATCHES", _MATCHES):
        made = [make(values, title, newest=False) for values, title in rows]
        there = set(sorted(task.pk for task in made if "x" in task.title)[-_MATCHES:])
        seen, changed = walked(caller, f"/api/tasks?{urlencode(asked)}", backward, between, ordering or "")
        transaction.set_rollback(True)
    for key in there - changed:
        assert seen.count(key) == 1, (key, ordering)
