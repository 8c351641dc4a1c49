"""Two people at one task, one at the console and one by the API: whoever is second is told, and nothing is overwritten unseen."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from django.db import connections

from tasks.models import OutboxEvent, Task
from tests.api_client import api, problem
from tests.console_pages import Console, change_page


def path(task) -> str:
    return f"/api/tasks/{task.pk}"


@pytest.fixture
def task(db):
    return Task.objects.create(title="Title", description="text", priority="low")


def test_what_the_api_changes_under_an_open_form_is_shown_and_kept(task):
    program, console = api("member"), Console("member")
    form = console.form(change_page(task))
    assert program.patch(path(task), {"title": "by the API", "status": "in_progress"}, If_Match='"1"').status_code == 200
    response = console.send(change_page(task), form | {"title": "at the console", "description": "mine"}, status=200)
    [change] = response.context["meanwhile"]
    assert (change.actor, [difference.name for difference in change.differences]) == (program.user.username, ["title", "status"])
    task.refresh_from_db()
    assert (task.title, task.description, task.status, task.version) == ("by the API", "text", "in_progress", 2)
    console.send(change_page(task), console.read(response))
    task.refresh_from_db()
    # The person has seen the other title and kept their own; what they did not touch is the program's.
    assert (task.title, task.description, task.status, task.version) == ("at the console", "mine", "in_progress", 3)


def test_what_the_console_changed_since_it_was_read_refuses_a_change_by_the_api(task):
    program, console = api("member"), Console("member")
    read = program.get(path(task))
    console.send(change_page(task), console.form(change_page(task)) | {"title": "at the console"})
    refused = program.patch(path(task), {"title": "by the API"}, If_Match=read["ETag"])
    problem(refused, 412)
    assert program.get(path(task)).json()["title"] == "at the console"
    assert program.patch(path(task), {"priority": "high"}, If_Match=refused["ETag"]).status_code == 200
    task.refresh_from_db()
    assert (task.title, task.priority, task.version) == ("at the console", "high", 3)


def test_a_deletion_by_either_is_told_to_the_other(task):
    program, console = api("member"), Console("member")
    form = console.form(change_page(task))
    assert program.send("DELETE", path(task), If_Match='"1"').status_code == 204
    answer = console.client.post(change_page(task), form | {"title": "typed"}, follow=True)
    assert "was deleted while you edited it" in answer.content.decode()
    other = Task.objects.create(title="other")
    read = program.get(path(other))
    other.delete()
    problem(program.patch(path(other), {"title": "x"}, If_Match=read["ETag"]), 404)
    assert not Task.objects.exists()


def test_without_if_match_a_program_changes_what_it_names_and_nothing_else(task):
    program, console = api("member"), Console("member")
    console.send(change_page(task), console.form(change_page(task)) | {"title": "at the console", "description": "mine"})
    assert program.patch(path(task), {"priority": "high"}).status_code == 200
    task.refresh_from_db()
    assert (task.title, task.description, task.priority) == ("at the console", "mine", "high")


def at_once(*acts) -> list:
    """What each of them returns; all begin at the same moment."""
    start = threading.Barrier(len(acts))

    def begin(act):
        start.wait(30)
        try:
            return act()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(acts)) as threads:
        return [future.result() for future in [threads.submit(begin, act) for act in acts]]


def test_of_two_at_the_same_moment_one_is_told(committed_db):
    """At the same version, again and again: one change is made, and the other person learns of it."""
    program, console = api("member"), Console("member")
    task = Task.objects.create(title="Title")
    page, where = change_page(task), path(task)
    for version in range(1, 4):
        form, etag = console.form(page) | {"title": f"console {version}", "_continue": "1"}, program.get(where)["ETag"]
        by_api = partial(program.patch, where, {"title": f"API {version}"}, If_Match=etag)
        statuses = [answer.status_code for answer in at_once(by_api, partial(console.client.post, page, form))]
        assert statuses in ([200, 200], [412, 302])  # a form that is shown again is a 200
        task.refresh_from_db()
        assert (task.title, task.version) == (f"{'API' if statuses[0] == 200 else 'console'} {version}", version + 1)
    assert OutboxEvent.objects.count() == 4
