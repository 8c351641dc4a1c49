"""`manage.py seed_demo`: examples that go the way of every change."""

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tasks import events
from tasks.models import Comment, OutboxEvent, Status, Task, Tombstone, Watcher


@pytest.fixture
def seeded(db, capsys):
    call_command("seed_demo", tasks=300, seed=7)
    connection.check_constraints()  # the events of what went with its task, which are written at the commit
    return capsys.readouterr().out


def test_each_change_has_its_event_and_its_person(seeded):
    recorded = [(row, events.parse(bytes(row.payload))) for row in OutboxEvent.objects.order_by("subject_id", "version")]
    last = {row.subject_id: row.version for row, _ in recorded}
    rows = [row for model in (Task, Comment, Watcher) for row in model.objects.all()]
    assert last == {str(row.pk): row.version for row in rows} | {
        stone.subject_id: stone.version for stone in Tombstone.objects.all()
    }
    assert sum(last.values()) == len(recorded)
    assert {event.actortype for _, event in recorded} == {"user"}
    assert {event.actorname for _, event in recorded} == {"ana", "ben", "chen", "dora", "emil"}
    kinds = {f"{kind}.{action}" for kind in ("task", "comment", "watcher") for action in events.ACTIONS}
    assert {event.type for _, event in recorded} == kinds - {"watcher.updated"}
    assert sum(event.type == "task.created" for _, event in recorded) == 300


def test_the_tasks_are_of_every_kind(seeded):
    tasks = list(Task.objects.all())
    assert {task.status for task in tasks} == set(Status.values)
    assert {task.priority for task in tasks} == {"low", "medium", "high"}
    assert len({task.title for task in tasks}) > 100
    for name in ("parent_id", "assignee_id", "due_at", "category", "description"):
        assert 0 < sum(bool(getattr(task, name)) for task in tasks) < len(tasks), name
    assert all(task.labels and task.created_by_id for task in tasks)
    assert not any("{" in task.title for task in tasks)
    comments = list(Comment.objects.select_related("author"))
    assert {comment.author.username for comment in comments} == {"ana", "ben", "chen", "dora", "emil"}
    assert not any("{" in comment.body for comment in comments)
    assert 0 < Comment.objects.filter(version=2).count() < len(comments)


def _content() -> list:
    names = ("title", "description", "status", "priority", "labels", "category", "assignee__username", "parent__title", "version")
    said = Comment.objects.order_by("id").values_list("author__username", "body", "version")
    return [*Task.objects.order_by("id").values_list(*names), *said]


def test_the_same_seed_makes_the_same_tasks(db):
    made = []
    for seed in (3, 3, 4):
        Task.objects.all().delete()
        call_command("seed_demo", tasks=60, seed=seed)
        made.append(_content())
    assert made[0] == made[1] != made[2]


def test_it_says_what_it_did(seeded):
    assert seeded.startswith("300 tasks created, ")
    assert f"{300 - Task.objects.count()} deleted, by 5 people, in " in seeded


@pytest.mark.parametrize("number", [0, -1, 1_000_001])
def test_a_number_that_makes_no_sense_is_refused(number):
    with pytest.raises(CommandError, match=f"--tasks: expected a whole number from 1 to 1000000, got {number}"):
        call_command("seed_demo", tasks=number)


def test_its_people_cannot_sign_in_and_have_a_role(seeded, django_user_model):
    people = django_user_model.objects.filter(username__in=["ana", "ben", "chen", "dora", "emil"])
    assert not any(person.has_usable_password() or person.is_staff for person in people)
    assert all(person.groups.filter(name="member").exists() for person in people)
