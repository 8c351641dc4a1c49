"""Two people at one task: a stale form says so, shows who changed what, keeps what was typed and loses no update."""

import datetime

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tasks import context
from tasks.models import Task
from tests.console_pages import TASKS, Console, change_page

pytestmark = pytest.mark.django_db


@pytest.fixture
def task():
    return Task.objects.create(title="Title", description="text", priority="low", labels=["a"])


def meanwhile(task, **values):
    """Another person changes the task."""
    other = User.objects.create(username="bruno")
    fresh = Task.objects.get(pk=task.pk)
    for name, value in values.items():
        setattr(fresh, name, value)
    with context.use(context.Context(actor=context.Actor.of_user(other))):
        fresh.save()


def test_a_stale_form_saves_nothing_and_says_who_changed_what(task):
    console = Console("member")
    form = console.form(change_page(task))
    meanwhile(task, status="in_progress", labels=["a", "b"])
    response = console.send(change_page(task), form | {"title": "typed by me"}, status=200)
    html = response.content.decode()
    assert "Nothing is saved yet" in html
    assert "Changed since you opened this page" in html
    [change] = response.context["meanwhile"]
    assert (change.actor, [difference.name for difference in change.differences]) == ("bruno", ["status", "labels"])
    assert Task.objects.get(pk=task.pk).title == "Title"


def test_typed_values_stay_and_untouched_fields_follow_the_row(task):
    console = Console("member")
    form = console.form(change_page(task))
    meanwhile(task, status="in_progress", labels=["a", "b"], title="theirs")
    response = console.send(change_page(task), form | {"title": "mine", "description": "typed\r\ntext"}, status=200)
    shown = console.read(response)
    assert (shown["title"], shown["description"]) == ("mine", "typed\r\ntext")
    assert (shown["status"], shown["labels"], shown["read_version"]) == ("in_progress", "a, b", "2")
    assert response.context["adminform"].form.merged_labels == ["Status", "Labels"]


def test_a_value_in_the_browsers_own_form_is_not_taken_for_anothers_change(task):
    """A browser leaves out seconds that are zero."""
    Task.objects.update(due_at=datetime.datetime(2026, 12, 1, 12, 0, 0, 5, tzinfo=datetime.UTC), description="a\nb\n")
    console = Console("member")
    form = console.form(change_page(task)) | {"due_at": "2026-12-01T12:00", "title": "mine"}
    meanwhile(task, priority="high")
    response = console.send(change_page(task), form, status=200)
    assert response.context["adminform"].form.merged_labels == ["Priority"]


def test_saving_again_keeps_the_others_change(task):
    console = Console("member")
    form = console.form(change_page(task))
    meanwhile(task, status="in_progress", priority="high")
    shown = console.read(console.send(change_page(task), form | {"title": "mine"}, status=200))
    console.send(change_page(task), shown)
    task.refresh_from_db()
    assert (task.title, task.status, task.priority, task.version) == ("mine", "in_progress", "high", 3)


def test_a_third_change_before_saving_again_is_said_too(task):
    console = Console("member")
    form = console.form(change_page(task))
    meanwhile(task, status="in_progress")
    shown = console.read(console.send(change_page(task), form | {"title": "mine"}, status=200))
    Task.objects.update(priority="high", status="completed")
    shown = console.read(console.send(change_page(task), shown, status=200))
    assert [shown[name] for name in ("title", "priority", "status", "read_version")] == ["mine", "high", "completed", "3"]
    console.send(change_page(task), shown)
    task.refresh_from_db()
    assert (task.title, task.status, task.priority) == ("mine", "completed", "high")


@pytest.mark.parametrize("version", ["", "0", "-1", "x", "999"])
def test_a_form_without_its_version_saves_nothing(task, version):
    console = Console("member")
    form = console.form(change_page(task)) | {"title": "mine", "read_version": version}
    response = console.send(change_page(task), form, status=200)
    assert Task.objects.get(pk=task.pk).title == "Title"
    shown = console.read(response)
    assert shown["title"] == "mine"
    console.send(change_page(task), shown)
    assert Task.objects.get(pk=task.pk).title == "mine"


def test_a_wrong_value_in_a_stale_form_stays_too(task):
    console = Console("member")
    form = console.form(change_page(task))
    meanwhile(task, priority="high")
    response = console.send(change_page(task), form | {"title": "mine", "due_at": "soon", "assignee": "no-one"}, status=200)
    shown = console.read(response)
    assert (shown["title"], shown["due_at"], shown["assignee"], shown["priority"]) == ("mine", "soon", "no-one", "high")


def test_what_was_typed_for_a_deleted_task_goes_into_a_new_one(task):
    console = Console("member")
    form = console.form(change_page(task))
    path = change_page(task)
    task.delete()
    response = console.client.post(path, form | {"title": "typed", "labels": "x, y"}, follow=True)
    assert "was deleted while you edited it" in response.content.decode()
    shown = console.read(response)
    assert (shown["title"], shown["labels"], shown["description"]) == ("typed", "x, y", "text")
    assert Task.objects.count() == 0
    console.send(f"{TASKS}add/", shown)
    assert Task.objects.get().labels == ["x", "y"]
    assert console.form(f"{TASKS}add/")["title"] == ""  # once


def test_the_save_locks_the_row_before_it_compares(task):
    """Nobody can change the task between the comparison of versions and the write."""
    console = Console("member")
    form = console.form(change_page(task))
    with CaptureQueriesContext(connection) as captured:
        console.send(change_page(task), form | {"title": "mine"})
    assert [query["sql"] for query in captured if 'FROM "tasks_task"' in query["sql"] and "FOR UPDATE" in query["sql"]]
