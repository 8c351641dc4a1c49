"""`/api/tasks`: what a caller may send, what comes back, and what each refusal says."""

import json
import threading
import uuid
from urllib.parse import urlsplit

import orjson
import pytest
from django.contrib.auth.models import User
from django.db import connection, connections

from tasks.api import queries
from tasks.models import OutboxEvent, Task
from tests.api_client import ABSENT, Api, api, person, pointers, problem, statements

pytestmark = pytest.mark.django_db


def events(task_id: str) -> list[dict]:
    rows = OutboxEvent.objects.filter(task_id=task_id).order_by("version")
    return [json.loads(bytes(row.payload)) for row in rows]


def test_a_created_task_is_answered_read_listed_and_recorded_as_one_document():
    caller = api("member")
    other = person()
    parent = caller.create(title="parent")
    body = {
        "title": "  A title with 🎈 and \u0001 \t  ", "description": "\r\n\"\\ é", "priority": "high", "status": "completed",
        "category": "billing", "summary": "short", "labels": ["b", "a", "b"], "assignee": {"id": str(other.pk), "name": "ignored"},
        "parent": parent["id"], "due_at": "2026-01-15T10:30:00.5+02:00",
    }  # fmt: skip
    response = caller.post(body)
    assert response.status_code == 201
    task = response.json()
    assert task["title"] == "A title with 🎈 and \u0001"
    assert task["labels"] == ["b", "a"]
    assert task["assignee"] == {"id": str(other.pk), "name": other.username}
    assert task["created_by"] == {"id": str(caller.user.pk), "name": caller.user.username}
    assert task["due_at"] == "2026-01-15T08:30:00.500000Z"
    assert task["completed_at"] == task["updated_at"]
    assert task["version"] == 1
    assert response["ETag"].startswith('"1-')
    read = caller.get(urlsplit(response["Location"]).path)
    assert (read.json(), read["ETag"]) == (task, response["ETag"])
    assert list(read.json()) == sorted(task)
    assert caller.get("/api/tasks?limit=1").json() == [task]
    (event,) = events(task["id"])
    assert event["data"]["task"] == task
    assert event["actorid"] == str(caller.user.pk)
    assert event["authid"].startswith("tok_")


def test_what_was_read_can_be_sent_back_and_changes_nothing():
    caller = api()
    task = caller.create(labels=["a"], assignee=caller.user.pk)
    response = caller.send("PUT", f"/api/tasks/{task['id']}", task)
    assert response.json() == task
    assert len(events(task["id"])) == 1


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_put_and_patch_change_the_fields_given(method):
    caller = api()
    task = caller.create(description="kept", due_at="2026-01-01T00:00:00Z")
    response = caller.send(method, f"/api/tasks/{task['id']}", {"status": "completed", "due_at": None})
    changed = response.json()
    assert response.status_code == 200
    assert response["ETag"] == caller.get(f"/api/tasks/{task['id']}")["ETag"]
    assert response["ETag"].startswith('"2-')
    assert (changed["status"], changed["due_at"], changed["description"], changed["version"]) == ("completed", None, "kept", 2)
    assert changed["completed_at"] is not None
    assert changed == events(task["id"])[1]["data"]["task"] == caller.get(f"/api/tasks/{task['id']}").json()
    assert events(task["id"])[1]["data"]["changes"]["status"] == {"from": "pending", "to": "completed"}


def test_output_only_fields_are_ignored():
    caller = api()
    body = {"id": str(uuid.uuid4()), "version": 7, "created_by": None, "created_at": "x", "updated_at": 1, "completed_at": []}
    task = caller.create(**body)
    assert task["version"] == 1
    assert task["id"] != body["id"]
    assert task["created_by"]["id"] == str(caller.user.pk)


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/"])
def test_both_forms_of_a_path_serve_every_method(path):
    caller = api()
    task = caller.post({"title": "x"}, path).json()
    assert caller.get(path).json() == [task]
    one = f"/api/tasks/{task['id']}" + path.removeprefix("/api/tasks")
    assert caller.get(one).json() == task
    assert caller.patch(one, {"title": "y"}).json()["title"] == "y"
    assert caller.send("DELETE", one).status_code == 204
    assert problem(caller.get(one), 404)


def test_a_deleted_parent_takes_its_subtasks_along_each_with_its_event():
    caller = api()
    parent = caller.create()
    child = caller.create(parent=parent["id"], assignee=caller.user.pk)
    response = caller.send("DELETE", f"/api/tasks/{parent['id']}")
    assert response.status_code == 204
    assert response.content == b""
    assert "Content-Type" not in response
    assert not Task.objects.exists()
    connection.check_constraints()  # as the commit does
    for task in (parent, child):
        _, deleted = events(task["id"])
        assert deleted["type"] == "task.deleted"
        assert deleted["actorid"] == str(caller.user.pk)


# -- conditional requests


def test_if_match_writes_only_the_version_it_names():
    caller = api()
    path = f"/api/tasks/{caller.create()['id']}"
    assert caller.patch(path, {"title": "2"}, If_Match='"1"').status_code == 200
    refused = caller.patch(path, {"title": "3"}, If_Match='"1"')
    assert "version 2" in problem(refused, 412)["detail"]
    assert refused["ETag"] == caller.get(path)["ETag"]
    for wrong in (f"W/{refused['ETag']}", 'W/"2"', '"2-"', '"2-x"', '"02"', '"1", W/"2"'):
        problem(caller.patch(path, {"title": "3"}, If_Match=wrong), 412)
    for known in ('"2"', refused["ETag"], f"W/{refused['ETag']}"):
        problem(caller.patch(path, {"title": "3"}, If_None_Match=known), 412)
    problem(caller.send("DELETE", path, If_Match='"1"'), 412)
    assert "If-Match" in problem(caller.patch(path, {"title": "3"}, If_Match="2"), 400)["detail"]
    problem(caller.patch(path, {"title": "3"}, If_None_Match="*"), 412)
    assert caller.patch(path, {"title": "3"}, If_Match='"9", "2"').status_code == 200
    assert caller.patch(path, {"title": "4"}, If_Match="*").json()["version"] == 4
    problem(caller.patch(f"/api/tasks/{uuid.uuid4()}", {"title": "x"}, If_Match="*"), 404)


@pytest.mark.parametrize(("method", "body"), [("PUT", {"title": "2"}), ("PATCH", {"title": "2"}), ("DELETE", ABSENT)])
def test_an_installation_may_demand_if_match(settings, method, body):
    settings.REQUIRE_IF_MATCH = True
    caller = api()
    path = f"/api/tasks/{caller.create()['id']}"
    assert "If-Match" in problem(caller.send(method, path, body), 428)["detail"]
    problem(caller.send(method, f"/api/tasks/{uuid.uuid4()}", body), 404)
    problem(caller.send(method, path, body, If_Match='"2"'), 412)
    assert caller.get(path).json()["version"] == 1
    assert caller.send(method, path, body, If_Match='"1"').status_code < 300


def test_if_none_match_saves_the_body():
    caller = api()
    made = caller.post({"title": "a task"})
    path, tag = urlsplit(made["Location"]).path, made["ETag"]
    for value in (tag, f"W/{tag}", "*", f'"7", {tag}'):
        with statements() as run:
            response = caller.get(path, If_None_Match=value)
        assert (response.status_code, response.content, response["ETag"], len(run)) == (304, b"", tag, 2)
    for other in ('"1"', '"2"', tag.replace("1-", "2-")):
        assert caller.get(path, If_None_Match=other).json() == caller.get(path).json()
    problem(caller.get(f"/api/tasks/{uuid.uuid4()}", If_None_Match="*"), 404)


def test_a_person_with_another_name_is_another_body_and_no_other_version():
    """RFC 9110 §8.8.1: a strong tag changes with what the body shows."""
    caller, other = api(), person()
    made = caller.post({"title": "a task", "assignee": other.pk})
    path, tag = urlsplit(made["Location"]).path, made["ETag"]
    for pk, name in ((other.pk, "Ünal 🎈"), (caller.user.pk, other.username)):
        User.objects.filter(pk=pk).update(username=name)
        read = caller.get(path, If_None_Match=tag)
        assert (read.status_code, name in json.dumps(read.json(), ensure_ascii=False)) == (200, True)
        assert read["ETag"] != tag
        tag = read["ETag"]
        assert caller.get(path, If_None_Match=tag).status_code == 304
    changed = caller.patch(path, {"title": "changed"}, If_Match=made["ETag"])
    assert (changed.status_code, changed["ETag"]) == (200, caller.get(path)["ETag"])


@pytest.mark.parametrize(("known", "made"), [(["*"], False), (['"7"', None], False), (['"2"'], True), ([], True)])
def test_no_json_is_made_of_a_task_that_is_known(known, made):
    """What PostgreSQL computes for it stands in the branch that is not taken (PostgreSQL documentation 9.18.1, CASE)."""
    response = api().post({"title": "a task"})
    key, known = uuid.UUID(response.json()["id"]), [tag or response["ETag"] for tag in known]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (VERBOSE) {queries._ONE_UNLESS}", [known, key])
        plan = "\n".join(line for (line,) in cursor.fetchall())
    before, _, branch = plan.partition("CASE WHEN (NOT ")
    assert ("to_char" in before, plan.count("row_to_json")) == (False, 1), plan
    assert "THEN (row_to_json(" in branch
    tag, text = queries.read(key, known)
    assert (tag, text is not None) == (response["ETag"], made)


# -- wrong bodies

_WRONG = [
    ({}, ["#/title"]),
    ({"title": ""}, ["#/title"]),
    ({"title": " \n "}, ["#/title"]),
    ({"title": None}, ["#/title"]),
    ({"title": 3}, ["#/title"]),
    ({"title": "x" * 256}, ["#/title"]),
    ({"title": "a\x00b"}, ["#/title"]),
    ({"title": "a\ud800b"}, ["#/title"]),
    ({"title": "x", "description": "x" * 20_001}, ["#/description"]),
    ({"title": "x", "description": None}, ["#/description"]),
    ({"title": "x", "priority": "urgent"}, ["#/priority"]),
    ({"title": "x", "priority": ["low"]}, ["#/priority"]),
    ({"title": "x", "status": None}, ["#/status"]),
    ({"title": "x", "category": "x" * 65}, ["#/category"]),
    ({"title": "x", "summary": "x" * 2_001}, ["#/summary"]),
    ({"title": "x", "labels": "a"}, ["#/labels"]),
    ({"title": "x", "labels": None}, ["#/labels"]),
    ({"title": "x", "labels": ["a", ""]}, ["#/labels/1"]),
    ({"title": "x", "labels": ["a" * 65]}, ["#/labels/0"]),
    ({"title": "x", "labels": ["a", 3]}, ["#/labels/1"]),
    ({"title": "x", "labels": [str(n) for n in range(51)]}, ["#/labels"]),
    ({"title": "x", "assignee": 2**31 - 1}, ["#/assignee"]),
    ({"title": "x", "assignee": 2**70}, ["#/assignee"]),
    ({"title": "x", "assignee": -1}, ["#/assignee"]),
    ({"title": "x", "assignee": True}, ["#/assignee"]),
    ({"title": "x", "assignee": "ana"}, ["#/assignee"]),
    ({"title": "x", "assignee": {}}, ["#/assignee"]),
    ({"title": "x", "assignee": {"id": None}}, ["#/assignee/id"]),
    ({"title": "x", "assignee": {"id": 1, "x/y": 1}}, ["#/assignee/x~1y"]),
    ({"title": "x", "parent": "no id"}, ["#/parent"]),
    ({"title": "x", "parent": 7}, ["#/parent"]),
    ({"title": "x", "parent": "0199fd0a-facc-7048-a66e-5b1e3b42419c"}, ["#/parent"]),
    ({"title": "x", "due_at": "2026-01-15"}, ["#/due_at"]),
    ({"title": "x", "due_at": "2026-01-15T10:30:00"}, ["#/due_at"]),
    ({"title": "x", "due_at": "2026-02-30T10:30:00Z"}, ["#/due_at"]),
    ({"title": "x", "due_at": "2026-01-15T10:30:60Z"}, ["#/due_at"]),
    ({"title": "x", "due_at": "0001-01-01T00:00:00+01:00"}, ["#/due_at"]),
    ({"title": "x", "due_at": "9999-12-31T23:59:59-01:00"}, ["#/due_at"]),
    ({"title": "x", "due_at": 1768472000}, ["#/due_at"]),
    ({"title": "x", "tilte": "y", "a/b~c é": 1}, ["#/a~1b~0c%20%C3%A9", "#/tilte"]),
    ({"status": "x", "priority": "y", "labels": [1]}, ["#/labels/0", "#/priority", "#/status", "#/title"]),
    ([], ["#"]),
    (None, ["#"]),
    ("title", ["#"]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), _WRONG, ids=lambda value: json.dumps(value)[:40])
def test_every_wrong_field_is_named(body, expected):
    assert pointers(api("member").post(body)) == expected
    assert not Task.objects.exists()


def _null_or_nothing(body) -> bool:
    """What a change may say: nothing, or null for a field that a new task has by itself (tests/test_api_merge_patch.py)."""
    return body == {} or (isinstance(body, dict) and None in (body.get(name, "") for name in ("description", "labels", "status")))


@pytest.mark.parametrize(
    ("body", "expected"), [case for case in _WRONG if not _null_or_nothing(case[0])], ids=lambda value: json.dumps(value)[:40]
)
def test_an_update_has_the_same_rules(body, expected):
    caller = api()
    path = f"/api/tasks/{caller.create()['id']}"
    without_title = [one for one in expected if one != "#/title" or (isinstance(body, dict) and "title" in body)]
    assert pointers(caller.patch(path, body)) == without_title
    assert caller.get(path).json()["version"] == 1


def test_the_sentence_says_what_was_expected():
    caller = api()
    errors = problem(caller.post({"title": "x", "due_at": "2026-01-15", "priority": "urgent"}), 422)["errors"]
    details = {error["pointer"]: error["detail"] for error in errors}
    assert "zone" in details["#/due_at"]
    assert "low, medium, high" in details["#/priority"]


@pytest.mark.parametrize("due_at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-01-15t10:30:00z"])
def test_the_ends_of_time_are_kept(due_at):
    caller = api()
    task = caller.create(due_at=due_at)
    assert task == caller.get(f"/api/tasks/{task['id']}").json() == caller.get("/api/tasks").json()[0]
    assert task["due_at"].startswith(due_at[:19].upper())


@pytest.mark.parametrize("form", [int, float, str, lambda key: {"id": key}, lambda key: {"id": str(key)}])
def test_an_assignee_is_an_id_or_the_object_that_a_task_shows(form):
    caller, other = api(), person()
    task = caller.create(assignee=form(other.pk))
    assert task["assignee"]["id"] == str(other.pk)
    assert caller.patch(f"/api/tasks/{task['id']}", {"assignee": None}).json()["assignee"] is None


def test_a_deactivated_person_stays_but_gets_nothing_new():
    caller, other = api(), person()
    task = caller.create(assignee=other.pk)
    User.objects.filter(pk=other.pk).update(is_active=False)
    kept = caller.send("PUT", f"/api/tasks/{task['id']}", {**task, "title": "y"})
    assert kept.json()["assignee"]["id"] == str(other.pk)
    assert pointers(caller.post({"title": "x", "assignee": other.pk})) == ["#/assignee"]


def test_subtasks_are_one_level_deep():
    caller = api()
    top = caller.create()
    child = caller.create(parent=top["id"])
    other = caller.create()
    assert pointers(caller.post({"title": "x", "parent": child["id"]})) == ["#/parent"]
    # Only the database knows these: its refusal is told as a problem.
    assert pointers(caller.patch(f"/api/tasks/{top['id']}", {"parent": other["id"]})) == ["#/parent"]
    assert pointers(caller.patch(f"/api/tasks/{other['id']}", {"parent": other["id"]})) == ["#/parent"]
    assert caller.patch(f"/api/tasks/{child['id']}", {"parent": None}).json()["parent"] is None


# -- what is no task, no method, no JSON


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("key", [str(uuid.UUID(int=7)), "7", "nothing", "%00", "0199fd0afacc7048a66e5b1e3b42419c"])
def test_an_unknown_task_is_404(method, key):
    problem(api().send(method, f"/api/tasks/{key}", {"title": "x"} if method in {"PUT", "PATCH"} else ABSENT), 404)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/api/tasks"), ("DELETE", "/api/tasks"), ("POST", "/api/tasks/x"), ("POST", "/api/audit")]
)
def test_a_method_that_is_not_there_is_405_and_says_which_are(method, path):
    response = api().send(method, path, {})
    problem(response, 405)
    assert "GET" in response["Allow"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [("*/*", 200), ("application/json", 200), ("text/html, application/*;q=0.5", 200), ("text/html", 406),
     ("application/*;q=0, text/csv;q=0, */*", 406), ("application/xml;q=0.9", 406), ("", 200)],
)  # fmt: skip
def test_accept(accept, status):
    response = api().get("/api/tasks", Accept=accept)
    assert response.status_code == status
    if status == 406:
        problem(response, 406)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
def test_only_json_is_taken(content_type):
    problem(api().post(b'{"title": "x"}', content_type=content_type), 415)


def test_a_charset_parameter_is_taken():
    assert api().post(b'{"title": "x"}', content_type='Application/JSON; charset="UTF-8"').status_code == 201


_NO_JSON = [
    b"", b"{", b"nothing", b"{'title': 'x'}", b'{"title": NaN}', b'{"title": "\xff"}', b"[" * 100_000,
    b'{"a":' * 5_000 + b"}" * 5_000, b'\xef\xbb\xbf{"title": "x"}', b'{"title": "x"} {}', b'{"title": 1e999}',
    b'{"title": "\\ud800", "x": NaN}', b'{"x": "\\ud800"',
]  # fmt: skip


@pytest.mark.parametrize("body", _NO_JSON, ids=lambda body: repr(body[:20]))
def test_malformed_json_is_400(body):
    problem(api().post(body), 400)


def test_a_huge_body_is_413(settings):
    raw = b'{"title": "x", "description": "' + b"y" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE + b'"}'
    problem(api().post(raw), 413)


def test_an_unknown_path_below_the_api_is_a_problem():
    problem(api().get("/api/nothing"), 404)
    problem(api().get("/api/tasks", Host="elsewhere.example"), 400)


# -- who asks


def test_no_credentials_and_wrong_ones_are_401():
    caller = api()
    secret = caller.headers["Authorization"]
    for header in (None, "Bearer tp_wrong", "Bearer ", "Bearer \xff", "Basic YTpi", secret + "x", "Bearer " + "tp_" + "x" * 5000):
        caller.headers = {"Authorization": header} if header is not None else {}
        response = caller.get("/api/tasks")
        problem(response, 401)
        assert response["WWW-Authenticate"].startswith("Bearer")


def test_an_expired_token_and_a_deactivated_person_are_401():
    caller = api()
    caller.user.api_tokens.update(expires_at="2020-01-01T00:00:00Z")
    problem(caller.get("/api/tasks"), 401)
    caller.user.api_tokens.update(expires_at=None)
    assert caller.get("/api/tasks").status_code == 200
    User.objects.filter(pk=caller.user.pk).update(is_active=False)
    problem(caller.get("/api/tasks"), 401)


def test_a_session_serves_and_its_writes_need_the_csrf_token():
    user = person("member")
    caller = Api(None)
    caller.client.force_login(user)
    task = caller.create()
    assert task["created_by"]["id"] == str(user.pk)
    assert events(task["id"])[0]["authid"] == "session"
    caller.client.handler.enforce_csrf_checks = True
    assert caller.get("/api/tasks").status_code == 200
    problem(caller.post({"title": "x"}), 403)


def test_the_request_says_why_and_under_which_id():
    caller = api()
    response = caller.post({"title": "x"}, X_Request_ID="abc-1", X_Change_Reason="asked by phone")
    (event,) = events(response.json()["id"])
    assert (event["requestid"], event["reason"]) == ("abc-1", "asked by phone")
    assert response["X-Request-ID"] == "abc-1"
    assert problem(caller.get("/api/nothing", X_Request_ID="abc-2"), 404)["request_id"] == "abc-2"


# -- faults


def test_a_database_that_is_away_is_503_at_once():
    caller = api()
    answers = []

    def ask():
        # A thread has a connection of its own; nothing listens on port 1.
        connections["default"].settings_dict = {**connections["default"].settings_dict, "HOST": "127.0.0.1", "PORT": "1"}
        answers.append(caller.get("/api/tasks"))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(5)
    (response,) = answers
    problem(response, 503)
    assert int(response["Retry-After"]) > 0


def test_a_fault_of_ours_is_a_bare_500(monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("tasks.api.queries.read", fail)
    response = api().get(f"/api/tasks/{uuid.uuid4()}")
    problem(response, 500)
    assert b"secret" not in response.content
    assert "secret detail" in caplog.text


def test_a_transaction_that_lost_a_deadlock_runs_again(monkeypatch):
    from django.db import OperationalError
    from psycopg.errors import DeadlockDetected

    save, tries = Task.save_base, []

    def lose_once(task, *args, **options):
        tries.append(task)
        if len(tries) == 1:
            raise OperationalError from DeadlockDetected()
        return save(task, *args, **options)

    monkeypatch.setattr(Task, "save_base", lose_once)
    api().create()
    assert len(tries) == 2
    assert Task.objects.count() == 1


def test_the_document_of_postgresql_is_that_of_python():
    caller = api()
    caller.create(title='"\\/\b\f\n\r\t\u0001\u007f\u2028é🎈', labels=['"', "{a,b}", "null"], description="</script>")
    task = Task.objects.get()
    (document,) = Task.documents([task])
    assert orjson.loads(caller.get(f"/api/tasks/{task.pk}").content) == document
