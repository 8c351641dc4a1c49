"""What reads the log by subject or by task does right with comments and watchers."""

import json

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from audit.export import Selection, bundle
from audit.models import Entry
from tasks import context
from tasks.models import Comment, Task, Watcher
from tests.api_client import api, person
from tests.console_pages import LOG, TASKS, Console, change_page
from tests.offline import wrong_with
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, record_all

pytestmark = pytest.mark.django_db


@pytest.fixture
def task() -> Task:
    """Its own changes between those of a comment and a watcher, all recorded."""
    ana = User.objects.create(username="ana")
    with context.use(context.Context(actor=context.Actor.of_user(ana))):
        task = Task.objects.create(title="One", created_by=ana)
        task.said = Comment.objects.create(task=task, author=ana, body="first\nword")
        task.title = "Two"
        task.save()
        task.said.body = "second\nword"
        task.said.save()
        Watcher.objects.create(task=task, user=ana)
    record_all()
    return task


def test_the_history_has_all_of_it_in_the_order_of_the_log(task):
    found = api("viewer").get(f"/api/tasks/{task.pk}/history").json()
    assert [(entry["event_type"], entry["version"]) for entry in found] == [
        ("watcher.created", 1), ("comment.updated", 2), ("task.updated", 2), ("comment.created", 1), ("task.created", 1)
    ]  # fmt: skip
    assert [entry["seq"] for entry in found] == sorted((entry["seq"] for entry in found), reverse=True)
    assert {entry["task_id"] for entry in found} == {str(task.pk)}
    assert found[1]["changes"] == {"body": {"from": "first\nword", "to": "second\nword"}}


def test_the_past_and_the_watermark_are_of_the_task_itself(task):
    caller, path = api("viewer"), f"/api/tasks/{task.pk}"
    assert caller.get(f"{path}?version=2").json() == caller.get(path).json()
    assert caller.get(f"{path}?version=1").json()["title"] == "One"
    assert caller.get(f"{path}?version=3").status_code == 404
    assert caller.get(f"{path}?as_of={task.said.updated_at.isoformat().replace('+', '%2B')}").json()["title"] == "Two"
    task.said.body = "third"
    task.said.save()  # waits for the log
    assert caller.get(f"{path}/audited").json() == {"version": 2, "audited_version": 2}
    assert caller.get(f"{path}?as_of={timezone.now().isoformat().replace('+', '%2B')}").json()["version"] == 2
    task.title = "Three"
    task.save()
    assert caller.get(f"{path}/audited").json() == {"version": 3, "audited_version": 2}


def test_the_console_says_what_each_change_is_of(task):
    page = Console("auditor").get(change_page(task))
    assert [(change.subject_type, change.action) for change in page.context["history"]] == [
        ("watcher", "created"), ("comment", "updated"), ("task", "updated"), ("comment", "created"), ("task", "created")
    ]  # fmt: skip
    html = page.content.decode()
    assert '<span class="tp-action">comment updated</span>' in html
    assert '<span class="tp-action">created</span>' in html
    created = page.context["history"][3]
    assert [difference.name for difference in created.differences] == ["body"]
    task.said.delete()
    task.delete()
    record_all()
    html = Console("viewer").get(f"{TASKS}{Entry.objects.first().task_id}/history/").content.decode()
    assert "The comment and its fields, as they last were, are kept in the entry." in html


def test_a_comment_makes_no_form_of_the_task_stale(task):
    console = Console("member")
    form = console.form(change_page(task))
    comments = Comment.objects.bulk_create([Comment(task=task, author=console.user, body="x") for _ in range(2)])
    for body in "yz":
        Comment.objects.filter(pk__in=[comment.pk for comment in comments]).update(body=body)
    console.send(change_page(task), form | {"title": "Three"})
    Task.objects.filter(pk=task.pk).update(priority="high")
    response = console.send(change_page(task), form | {"title": "Four"}, status=200)
    assert {change.subject_type for change in response.context["meanwhile"]} == {"task"}
    assert [change.version for change in response.context["meanwhile"]] == [4, 3]


def test_the_list_of_the_log_shows_and_finds_comments(task):
    console = Console("auditor")
    html = console.get(LOG).content.decode()
    assert "Comment updated" in html  # a filter
    assert ">second\nword</a>" in html
    found = console.rows(f"{LOG}?type=comment.updated")
    assert [entry.subject_id for entry in found] == [str(task.said.pk)]


def test_an_export_of_the_task_has_all_of_it_and_proves_itself(task):
    log = Log()
    log.sign()
    lines = list(bundle(Selection(task=task.pk)))
    entries = [line for line in map(json.loads, lines) if line["kind"] == "entry"]
    assert len(entries) == 5
    assert wrong_with(lines, str(log.key.verifier)) is None
    without_the_comments_first = [line for line in lines if json.loads(line).get("seq") != entries[1]["seq"]]
    assert "is version 2 of comment/" in wrong_with(without_the_comments_first, str(log.key.verifier))


DRIFT = {
    "a body": ("UPDATE tasks_comment SET body = 'forged'", "body of the row: not as its last entry says"),
    "an author": ("UPDATE tasks_comment SET author_id = {eve}", "author of the row: not as its last entry says"),
    "a version": ("UPDATE tasks_comment SET version = 3", "the row is at version 3, its last entry at 2"),
    "a comment gone": ("DELETE FROM tasks_comment", "the comment that it created is gone"),
    "a watcher gone": ("DELETE FROM tasks_watcher", "the watcher that it created is gone"),
    "another watcher": ("UPDATE tasks_watcher SET user_id = {eve}", "user of the row: not as its last entry says"),
    "a comment made": (
        "INSERT INTO tasks_comment (version, updated_at, created_at, body, author_id, task_id) "
        "SELECT 1, now(), now(), 'x', {eve}, id FROM tasks_task",
        "was never recorded",
    ),
}


@pytest.mark.parametrize("case", DRIFT)
def test_rows_that_are_not_as_the_log_says_are_drift(task, case):
    log = Log()
    log.sign()
    assert not log.verify().tampered
    statement, said = DRIFT[case]
    disable_triggers("tasks_comment", "tasks_watcher")
    execute(statement.format(eve=person().pk))
    found = log.verify().findings
    assert [finding.check for finding in found] == ["drift"], list(map(str, found))
    assert said in found[0].detail
