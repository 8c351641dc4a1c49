"""Filters, ordering, pages and members against a naive model: plain Python over the documents of all tasks."""

import os
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.api.ordering import ORDERINGS
from tasks.around import Watcher
from tasks.models import Task
from tests.api_client import api, person, statements, walk

pytestmark = pytest.mark.django_db
# `make test-lists` tries as many as it is told.
_examples = settings(max_examples=int(os.environ.get("LIST_EXAMPLES", "20")), suppress_health_check=list(HealthCheck))
NOW = datetime.now(UTC).replace(microsecond=0)
# Few values, so that many are equal; the last two are far from now on either side, for `overdue`.
MOMENTS = [NOW + timedelta(days=days, microseconds=1) for days in (-3, -2, -1, 1, 2)]
RANKS = {"low": 0, "medium": 1, "high": 2}

_words = st.sampled_from(["a", "b", 'c, "d"', "50 %s' \\"])
_moments = st.sampled_from(MOMENTS)
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "status": st.sampled_from(["pending", "in_progress", "completed"]),
            "priority": st.sampled_from(list(RANKS)),
            "assignee": st.sampled_from(["me", "other", None]),
            "created_by": st.sampled_from(["me", "other", None]),
            "labels": st.lists(_words, unique=True, max_size=3),
            "category": st.sampled_from(["x", "none", None]),
            "due_at": _moments | st.none(),
            "created_at": _moments,
            "completed_at": _moments,
            "is_subtask": st.booleans(),
            "watchers": st.sets(st.sampled_from(["me", "other"])),
        }
    ),
    max_size=14,
)
_several = {
    "status": st.sampled_from(["pending", "in_progress", "completed"]),
    "priority": st.sampled_from(list(RANKS)),
    "assignee": st.sampled_from(["me", "other", "none"]),
    "created_by": st.sampled_from(["me", "other", "none"]),
    "label": _words,
    "label_all": _words,
    "parent": st.sampled_from(["parent", "none"]),
    "category": st.sampled_from(["x", "none", ""]),
    "watching": st.sampled_from(["me", "other"]),
}
_queries = st.fixed_dictionaries(
    {},
    optional={name: st.lists(values, min_size=1, max_size=3) for name, values in _several.items()}
    | {f"{time}_{side}": _moments for time in ("due", "created", "updated", "completed") for side in ("before", "after")}
    | {"overdue": st.sampled_from(["true", "false"]), "ordering": st.sampled_from(list(ORDERINGS))},
)


@pytest.fixture(scope="module")
def caller(django_db_setup, django_db_blocker):
    """One for all examples, each of which is undone."""
    with django_db_blocker.unblock(), transaction.atomic():
        found = api()
        found.other = person()
        found.parent = uuid.UUID(found.create(title="parent")["id"])
        yield found
        transaction.set_rollback(True)


def fill(caller, rows: list[dict]) -> None:
    people = {"me": caller.user, "other": caller.other, None: None}
    tasks = Task.objects.bulk_create(
        Task(
            **{name: row[name] for name in ("status", "priority", "labels", "category", "due_at", "created_at")},
            title=str(number), assignee=people[row["assignee"]], created_by=people[row["created_by"]],
            completed_at=row["completed_at"] if row["status"] == "completed" else None,
            parent_id=caller.parent if row["is_subtask"] else None,
        )
        for number, row in enumerate(rows)
    )  # fmt: skip
    Watcher.objects.bulk_create(
        Watcher(task=task, user=people[name]) for task, row in zip(tasks, rows, strict=True) for name in row["watchers"]
    )


def matches(task: dict, asked: dict, ids: dict, watchers: set[str]) -> bool:
    def one_of(name, value):
        return name not in asked or value in [ids.get(word, word) for word in asked[name]]

    def identity(member):
        return member["id"] if member else None

    within = all(
        moment is not None and (moment < rfc3339(asked[name]) if side == "before" else moment >= rfc3339(asked[name]))
        for time in ("due", "created", "updated", "completed")
        for side in ("before", "after")
        if (name := f"{time}_{side}") in asked
        for moment in [task[f"{time}_at"]]
    )
    overdue = task["due_at"] is not None and task["due_at"] < rfc3339(NOW) and task["status"] != "completed"
    return (
        one_of("status", task["status"])
        and one_of("priority", task["priority"])
        and one_of("assignee", identity(task["assignee"]))
        and one_of("created_by", identity(task["created_by"]))
        and one_of("parent", task["parent"])
        and ("category" not in asked or (task["category"] or "") in asked["category"])
        and ("label" not in asked or bool(set(asked["label"]) & set(task["labels"])))
        and set(asked.get("label_all", ())) <= set(task["labels"])
        and ("watching" not in asked or bool(set(asked["watching"]) & watchers))
        and within
        and ("overdue" not in asked or overdue == (asked["overdue"] == "true"))
    )


def rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def in_order(tasks: list[dict], asked: dict) -> list[dict]:
    filtered = [time for time in ("due", "created", "updated", "completed") if {f"{time}_before", f"{time}_after"} & asked.keys()]
    if asked.get("overdue") == "true":
        filtered.append("due")
    ordering = asked.get("ordering") or f"-{(filtered or ['created'])[0]}_at"
    name, descending = ordering.lstrip("-"), ordering.startswith("-")
    if name == "priority":
        return sorted(tasks, key=lambda task: (RANKS[task["priority"]], task["created_at"], task["id"]), reverse=descending)
    valued = [task for task in tasks if task[name] is not None]
    without = [task for task in tasks if task[name] is None]
    return [
        *sorted(valued, key=lambda task: (task[name], task["id"]), reverse=descending),
        *sorted(without, key=lambda task: task["id"], reverse=descending),
    ]


def query_string(caller, asked: dict, **more) -> str:
    def written(name, value):
        if name in _several:
            words = [str({"other": caller.other.pk, "parent": caller.parent}.get(word, word)) for word in value]
            return ",".join('"' + word.replace('"', '""') + '"' for word in words)
        return rfc3339(value) if isinstance(value, datetime) else value

    return urlencode({name: written(name, value) for name, value in {**asked, **more}.items()})


@_examples
@given(rows=_rows, asked=_queries, limit=st.integers(1, 6))
def test_what_is_asked_is_what_plain_python_finds_on_the_way_there_and_back(caller, rows, asked, limit):
    with transaction.atomic():
        fill(caller, rows)
        every = caller.get("/api/tasks?limit=500").json()
        assert len(every) == len(rows) + 1
        ids = {"me": str(caller.user.pk), "other": str(caller.other.pk), "none": None, "parent": str(caller.parent)}
        watchers = {str(number): row["watchers"] for number, row in enumerate(rows)}
        expected = in_order([task for task in every if matches(task, asked, ids, watchers.get(task["title"], set()))], asked)
        with statements() as found:
            whole = caller.get(f"/api/tasks?{query_string(caller, asked, limit=500)}")
        assert whole.json() == expected
        assert len(found) == 2, "authentication and the list"
        there = walk(caller, f"/api/tasks?{query_string(caller, asked, limit=limit)}")
        assert [task for _, page in there for task in page] == expected
        back = walk(caller, there[-1][0], "prev")
        assert [task for _, page in reversed(back) for task in page] == expected
        transaction.set_rollback(True)
