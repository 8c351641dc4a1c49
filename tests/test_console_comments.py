"""Comments at the console: written on the task's page, changed by their author or an admin, through the same capture."""

import pytest

from tasks.around import BODY_LENGTH
from tasks.models import Comment, Task
from tests.api_client import person
from tests.console_pages import Console, change_page
from tests.test_capture import events_of

pytestmark = pytest.mark.django_db

COMMENTS = "/admin/tasks/comment/"


@pytest.fixture
def task() -> Task:
    return Task.objects.create(title="One")


def add(console: Console, task: Task, body: str, status: int = 302):
    response = console.client.post(f"/admin/tasks/task/{task.pk}/comment/", {"body": body})
    assert response.status_code == status
    return response


def page_of(comment: Comment) -> str:
    return f"{COMMENTS}{comment.pk}/change/"


def test_a_comment_is_written_on_the_tasks_page_and_shown_there(task):
    console = Console("member")
    form = console.form(change_page(task), "comment_form")
    assert set(form) == {"csrfmiddlewaretoken", "body"}
    assert add(console, task, "  <b>first</b>\r\nline").url == change_page(task)
    comment = Comment.objects.get()
    assert (comment.body, comment.author, comment.version) == ("  <b>first</b>\nline", console.user, 1)
    (event,) = events_of(comment.pk)
    assert (event["actorid"], event["type"], event["taskid"]) == (str(console.user.pk), "comment.created", str(task.pk))
    page = Console("viewer").get(change_page(task))
    html = page.content.decode()
    assert '<div class="tp-said">  &lt;b&gt;first&lt;/b&gt;\nline</div>' in html
    assert page_of(comment) not in html
    assert "comment_form" not in html
    assert page_of(comment) in console.get(change_page(task)).content.decode()


def test_an_author_changes_and_deletes_it_and_comes_back_to_the_task(task):
    console = Console("member")
    comment = Comment.objects.create(task=task, author=console.user, body="first")
    form = console.form(page_of(comment), "comment_form")
    response = console.send(page_of(comment), form | {"body": "second"})
    assert response.url == change_page(task)
    assert console.send(page_of(comment), console.form(page_of(comment), "comment_form")).url == change_page(task)  # untouched
    assert "edited" in console.get(change_page(task)).content.decode()
    assert console.client.post(f"{COMMENTS}{comment.pk}/delete/", {"post": "yes"}).url == change_page(task)
    assert [event["type"] for event in events_of(comment.pk)] == ["comment.created", "comment.updated", "comment.deleted"]
    assert {event["actorid"] for event in events_of(comment.pk)[1:]} == {str(console.user.pk)}


@pytest.mark.parametrize(
    ("role", "allowed"), [("viewer", False), ("member", False), ("auditor", False), ("admin", True), (None, False)]
)
def test_who_changes_what_somebody_else_wrote(task, role, allowed):
    comment = Comment.objects.create(task=task, author=person("member"), body="first")
    console = Console(role)
    changed = console.client.post(page_of(comment), {"body": "second", "read_version": "1"})
    deleted = console.client.post(f"{COMMENTS}{comment.pk}/delete/", {"post": "yes"})
    assert [changed.status_code, deleted.status_code] == ([302, 302] if allowed else [403, 403])
    assert Comment.objects.filter(body="first").exists() != allowed
    assert console.get(COMMENTS, 403 if role is None else 200)
    if role is not None and not allowed:
        assert "first" in console.get(page_of(comment)).content.decode()


@pytest.mark.parametrize("role", ["viewer", "auditor", None])
def test_who_only_reads_writes_none(task, role):
    add(Console(role), task, "x", 403)
    assert Console("member").client.get(f"/admin/tasks/task/{task.pk}/comment/").status_code == 403
    assert Console("admin").client.get(f"{COMMENTS}add/").status_code == 403
    assert not Comment.objects.exists()


@pytest.mark.parametrize(("body", "said"), [(" \r\n", "blank"), ("", "required"), ("x" * (BODY_LENGTH + 1), "at most 10000")])
def test_what_cannot_be_taken_is_said_and_kept(task, body, said):
    console = Console("member")
    add(console, task, body)
    page = console.get(change_page(task))
    assert said in page.content.decode()
    assert console.read(page, "comment_form")["body"] == body
    assert console.form(change_page(task), "comment_form")["body"] == ""
    assert not Comment.objects.exists()


def test_its_history_is_the_tasks(task):
    comment = Comment.objects.create(task=task, author=person(), body="first")
    console = Console("viewer")
    response = console.client.get(f"{COMMENTS}{comment.pk}/history/")
    assert response.url == f"/admin/tasks/task/{task.pk}/history/"
    assert "Save and continue" not in Console("admin").get(page_of(comment)).content.decode()
    assert console.client.get(f"{COMMENTS}x/history/").url == "/admin/"
    Console(None).get(f"{COMMENTS}{comment.pk}/history/", 403)


def test_a_comment_that_changed_meanwhile_is_not_overwritten(task):
    console = Console("admin")
    comment = Comment.objects.create(task=task, author=person("member"), body="first")
    form = console.form(page_of(comment), "comment_form")
    Comment.objects.update(body="second")
    response = console.send(page_of(comment), form | {"body": "mine"}, 200)
    assert "It says now: second" in response.content.decode()
    assert Comment.objects.get().body == "second"
    again = console.read(response, "comment_form")
    assert again["body"] == "mine"
    console.send(page_of(comment), again)
    assert Comment.objects.get().body == "mine"


def test_a_task_that_is_gone_and_a_comment_that_is_gone(task):
    console = Console("member")
    comment = Comment.objects.create(task=task, author=console.user, body="first")
    Task.objects.all().delete()
    assert add(console, task, "late").url == "/admin/"
    assert console.client.post(page_of(comment), {"body": "x"}).url == "/admin/"
    for key in ("x", "00000000-0000-0000-0000-000000000000"):
        assert console.client.post(f"/admin/tasks/task/{key}/comment/", {"body": "x"}).url == "/admin/"
        assert console.client.get(f"{COMMENTS}{key}/change/").url == "/admin/"


def test_the_newest_are_shown_at_a_constant_cost_and_the_rest_in_a_list(task):
    console = Console("member")
    people = [person() for _ in range(5)]
    Comment.objects.create(task=task, author=people[0], body="0")
    few = console.queries(change_page(task))
    Comment.objects.bulk_create([Comment(task=task, author=people[n % 5], body=str(n)) for n in range(1, 60)])
    assert len(console.queries(change_page(task))) == len(few)
    page = console.get(change_page(task))
    newest = [comment.pk for comment, _ in page.context["comments"]]
    assert newest == list(Comment.objects.order_by("-pk").values_list("pk", flat=True)[:20])
    listed = f"{COMMENTS}?task={task.pk}"
    assert listed in page.content.decode()
    assert len(console.rows(listed)) == 50
    assert not [sql for sql in console.queries(listed) if "COUNT(" in sql or "OFFSET" in sql]
    assert console.rows(f"{COMMENTS}?task={Task.objects.create(title='Two').pk}") == []
