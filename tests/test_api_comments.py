"""`/api/tasks/{id}/comments`: read, written, changed and deleted, by whom and at what cost."""

import re
import uuid

import pytest
from django.contrib.auth.models import User
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.api import around_queries
from tasks.around import BODY_LENGTH
from tasks.models import Comment, Task
from tests.api_client import Api, api, person, pointers, problem, statements
from tests.test_api_lists import links
from tests.test_capture import commit_now, events_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def ana() -> Api:
    return api("member")


@pytest.fixture
def path(ana) -> str:
    return f"/api/tasks/{ana.create()['id']}/comments"


def comment(caller: Api, path: str, body: str = "first") -> dict:
    response = caller.post({"body": body}, path)
    assert response.status_code == 201, response.content
    return response.json()


def test_a_comment_is_made_read_changed_and_deleted(ana, path):
    response = ana.post({"body": "  *first*\n"}, path, X_Change_Reason="asked for")
    made = response.json()
    assert response["Location"] == f"http://testserver{path}/{made['id']}"
    assert response["ETag"].startswith('"1-')
    assert made == {
        "author": {"id": str(ana.user.pk), "name": ana.user.username}, "body": "  *first*\n", "created_at": made["updated_at"],
        "id": made["id"], "task": path.split("/")[3], "updated_at": made["updated_at"], "version": 1,
    }  # fmt: skip
    one = f"{path}/{made['id']}"
    read = ana.get(one)
    assert (read.json(), read["ETag"]) == (made, response["ETag"])
    assert list(read.json()) == list(made)
    changed = ana.patch(one, {"body": "second"})
    assert (changed.json()["body"], changed.json()["version"]) == ("second", 2)
    assert changed["ETag"] == response["ETag"].replace("1-", "2-") == ana.get(one)["ETag"]
    assert ana.send("PUT", f"{one}/", changed.json()).json() == changed.json()  # what was read can be sent back: no change
    assert ana.send("DELETE", one).status_code == 204
    problem(ana.get(one), 404)
    commit_now()
    events = events_of(made["id"])
    assert [event["type"] for event in events] == ["comment.created", "comment.updated", "comment.deleted"]
    assert {event["actorid"] for event in events} == {str(ana.user.pk)}
    assert (events[0]["reason"], events[0]["data"]["comment"]) == ("asked for", made)
    assert Task.objects.get().version == 1


def test_what_is_answered_is_the_models_document(ana, path):
    made = comment(ana, path, '"\\\x01\x7f é😀\u2028')
    (document,) = Comment.documents([Comment.objects.get(pk=made["id"])])
    assert made == document == ana.get(f"{path}/{made['id']}").json() == ana.get(path).json()[0]


@pytest.mark.parametrize(("known", "made"), [("{}", False), ("*", False), ('"7", W/{}', False), ('"2"', True), ('"1"', True)])
def test_no_json_is_made_of_a_comment_that_is_known(ana, path, known, made):
    key = comment(ana, path)["id"]
    tag = ana.get(f"{path}/{key}")["ETag"]
    known = known.format(tag)
    response = ana.get(f"{path}/{key}", If_None_Match=known)
    assert (response.status_code, response["ETag"], bool(response.content)) == (200 if made else 304, tag, made)
    tags = re.findall(r'"[^"]+"|[*]', known)
    found, text = around_queries.comment(uuid.UUID(path.split("/")[3]), uuid.UUID(key), tags)
    assert (found, text is not None) == (tag, made)
    problem(ana.get(f"{path}/{uuid.uuid4()}", If_None_Match=known), 404)


def test_an_author_with_another_name_is_another_body(ana, path):
    one = f"{path}/{comment(ana, path)['id']}"
    tag = ana.get(one)["ETag"]
    User.objects.filter(pk=ana.user.pk).update(username="another")
    read = ana.get(one, If_None_Match=tag)
    assert (read.status_code, read.json()["author"]["name"]) == (200, "another")
    assert ana.patch(one, {"body": "second"}, If_Match=tag).status_code == 200


def test_conditions_are_as_for_tasks(ana, path):
    one = f"{path}/{comment(ana, path)['id']}"
    assert ana.get(one, If_None_Match=ana.get(one)["ETag"]).status_code == 304
    assert ana.patch(one, {"body": "second"}, If_Match='"1"').status_code == 200
    stale = ana.patch(one, {"body": "third"}, If_Match='"1"')
    assert "The comment is at version 2 now" in problem(stale, 412)["detail"]
    assert stale["ETag"] == ana.get(one)["ETag"]
    problem(ana.send("DELETE", one, If_Match='"1"'), 412)
    assert ana.send("DELETE", one, If_Match='"2"').status_code == 204


WRONG = {
    "none": ({}, ["#/body"]),
    "empty": ({"body": ""}, ["#/body"]),
    "blank": ({"body": " \n\t"}, ["#/body"]),
    "too long": ({"body": "x" * (BODY_LENGTH + 1)}, ["#/body"]),
    "null": ({"body": None}, ["#/body"]),
    "a number": ({"body": 7}, ["#/body"]),
    "U+0000": ({"body": "a\0"}, ["#/body"]),
    "another field": ({"body": "x", "text": "y"}, ["#/text"]),
    "all that is wrong": ({"body": [], "text": "y", "title": "z"}, ["#/body", "#/text", "#/title"]),
    "no object": ([1], ["#"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_wrong_field_is_pointed_at(ana, path, case):
    body, expected = WRONG[case]
    assert pointers(ana.post(body, path)) == expected
    one = f"{path}/{comment(ana, path)['id']}"
    if body != {}:
        assert pointers(ana.patch(one, body)) == expected


def test_the_longest_comment_of_the_worst_characters_is_taken(ana, path):
    assert comment(ana, path, "\x01" * (BODY_LENGTH - 1) + "x")["version"] == 1


def test_a_lone_surrogate_and_no_json(ana, path):
    assert pointers(ana.post(rb'{"body": "\ud800"}', path)) == ["#/body"]
    problem(ana.post(b"{", path), 400)
    problem(ana.send("POST", path, b"body=x", "application/x-www-form-urlencoded"), 415)


def test_another_tasks_comment_and_no_task_are_not_there(ana, path):
    made = comment(ana, path)
    other = f"/api/tasks/{ana.create()['id']}/comments"
    gone = f"/api/tasks/{uuid.uuid4()}/comments"
    for method, body in (("GET", None), ("PUT", {"body": "x"}), ("PATCH", {"body": "x"}), ("DELETE", None)):
        for wrong in (f"{other}/{made['id']}", f"{gone}/{made['id']}", f"{path}/{uuid.uuid4()}", f"{path}/x"):
            problem(ana.send(method, wrong, body or b""), 404)
    for wrong in (gone, "/api/tasks/x/comments"):
        problem(ana.get(wrong), 404)
        problem(ana.post({"body": "x"}, wrong), 404)
    assert Comment.objects.get().version == 1
    assert ana.get(other).json() == []


def test_author_and_admin_change_it_and_an_author_who_writes_no_more_does_not(ana, path):
    one = f"{path}/{comment(ana, path)['id']}"
    assert "by its author" in problem(api("member").patch(one, {"body": "x"}), 403)["detail"]
    assert api("admin").patch(one, {"body": "x"}).json()["author"]["id"] == str(ana.user.pk)
    assert Api(person(is_superuser=True)).patch(one, {"body": "y"}).status_code == 200
    ana.user.groups.clear()
    problem(ana.patch(one, {"body": "z"}), 403)


def test_pages_lead_through_all_of_it_both_ways(ana, path):
    author, task = ana.user, Task.objects.get()
    made = Comment.objects.bulk_create([Comment(task=task, author=author, body=str(n)) for n in range(7)])
    wanted = [str(row.pk) for row in sorted(made, key=lambda row: row.pk, reverse=True)]
    found, url, last = [], f"{path}?limit=3", None
    while url:
        last = ana.get(url)
        found += [row["id"] for row in last.json()]
        url = links(last).get("next")
    assert found == wanted
    back = ana.get(links(last)["prev"])
    assert [row["id"] for row in back.json()] == wanted[3:6]
    for wrong in ("limit=0", "cursor=x", "page=2"):
        problem(ana.get(f"{path}?{wrong}"), 400)


def test_each_request_costs_a_constant_number_of_statements(ana, path):
    def cost(call) -> int:
        with statements() as made:
            assert call().status_code < 300
        return len(made) - 1  # the token's

    assert cost(lambda: ana.get(path)) == 2  # of no comments: is there such a task?
    made = comment(ana, path)
    one = f"{path}/{made['id']}"
    assert cost(lambda: ana.get(path)) == 1
    Comment.objects.bulk_create([Comment(task_id=made["task"], author=ana.user, body="x") for _ in range(30)])
    assert cost(lambda: ana.get(path)) == 1
    assert cost(lambda: ana.get(one)) == 1
    assert cost(lambda: ana.post({"body": "x"}, path)) == 2
    assert cost(lambda: ana.patch(one, {"body": "y"})) == 3
    assert cost(lambda: ana.patch(one, {"body": "y"})) == 1
    assert cost(lambda: ana.send("DELETE", one)) == 4


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text(max_size=30) | st.integers() | st.none() | st.just("x" * BODY_LENGTH) | st.just("é" * (BODY_LENGTH + 1)))
def test_any_body_is_kept_as_it_is_or_refused(ana, path, body):
    response = ana.post({"body": body}, path)
    fine = isinstance(body, str) and body.strip() and len(body) <= BODY_LENGTH and "\0" not in body
    if fine and body.encode("utf-8", "surrogatepass") == body.encode("utf-8", "replace"):
        assert response.json()["body"] == body
    else:
        assert pointers(response) == ["#/body"]
