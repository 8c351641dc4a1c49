"""Problems (RFC 9457): each has a type that resolves, a title, the request's id, and nothing of the inside."""

import json
import re
import socket
from pathlib import Path

import pytest
from django.db import InternalError, OperationalError, ProgrammingError
from django.test import Client

from taskpulse import admission, health, problem_types
from taskpulse.errors import Problem
from taskpulse.management.commands import problem_types as command
from taskpulse.problem_types import BY_NAME, TYPES
from tasks.api import queries, writing
from tests.api_client import Api, api, person, problem

_KEY = "0199fd0a-facc-7048-a66e-5b1e3b42419c"
_SECRET = 'relation "tasks_secret" does not exist LINE 1: SELECT hunter2 FROM /srv'


def is_sound(document: dict) -> bool:
    found = BY_NAME[document["type"].removeprefix(f"{problem_types.PATH}/")]
    told = {"type", "title", "status", "detail", "request_id"}
    assert (document["title"], document["status"]) == (found.title, found.status)
    assert told <= document.keys() <= told | {"errors"}
    assert document["detail"]
    assert document["request_id"]
    return True


def test_names_are_unique_and_titles_and_meanings_are_there():
    assert len(BY_NAME) == len(TYPES)
    assert len({found.title for found in TYPES}) == len(TYPES)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", found.name) and found.meaning.endswith(".") for found in TYPES)


def test_a_problem_of_no_type_is_a_mistake_of_the_code():
    for status, name in ((418, None), (412, "no-such"), (409, "stale-version")):
        with pytest.raises(KeyError):
            Problem(status, "x", type=name)


def test_the_documented_table_is_the_one_of_the_code():
    assert command.PAGE.read_text() == command.page(), "run `make problem-types`"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("found", TYPES, ids=lambda found: found.name)
def test_every_type_resolves_for_programs_and_for_people(found, slash):
    document = Client().get(found.uri + slash, headers={"Accept": "application/json"})
    assert document.json() == {"type": found.uri, "status": found.status, "title": found.title, "meaning": found.meaning}
    page = Client().get(found.uri + slash, headers={"Accept": "text/html,*/*;q=0.8"})
    assert page["Content-Type"] == "text/html; charset=utf-8"
    assert found.title in page.content.decode()
    assert "Accept" in page["Vary"]


def test_all_types_are_listed_and_no_other_is_there():
    assert [found["type"] for found in Client().get("/api/problems").json()] == [found.uri for found in TYPES]
    problem(Client().get("/api/problems/no-such"), 404)
    refused = Client().post("/api/problems")
    assert problem(refused, 405)["type"] == "/api/problems/method-not-allowed"
    assert refused["Allow"] == "GET, HEAD, OPTIONS"
    problem(Client().get("/api/problems", headers={"Accept": "image/png"}), 406)


def _with_session() -> Api:
    caller = Api(None)
    caller.client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    caller.client.force_login(person("member"))
    return caller


# What is asked, by whom, and the type of the problem.
_REFUSED = {
    "unknown path": (lambda: api().get("/api/nothing"), "not-found"),
    "unknown path of the log": (lambda: api().get("/audit/nothing"), "not-found"),
    "unknown task": (lambda: api().get(f"/api/tasks/{_KEY}"), "not-found"),
    "unknown past": (lambda: api().get(f"/api/tasks/{_KEY}?version=1"), "not-found"),
    "no token": (lambda: Api(None).get("/api/tasks"), "not-authenticated"),
    "wrong token": (lambda: Api(None).get("/api/tasks", Authorization="Bearer tp_x"), "invalid-token"),
    "role": (lambda: api("viewer").post({"title": "x"}), "forbidden"),
    "CSRF": (lambda: _with_session().post({"title": "x"}), "csrf-failed"),
    "method": (lambda: api().send("DELETE", "/api/tasks"), "method-not-allowed"),
    "Accept": (lambda: api().get("/api/tasks", Accept="image/png"), "not-acceptable"),
    "body too large": (lambda: api().post(b" " * 1_000_001), "content-too-large"),
    "media type": (lambda: api().post(b"{}", content_type="text/plain"), "unsupported-media-type"),
    "JSON": (lambda: api().post(b"{"), "malformed-request"),
    "parameter": (lambda: api().get("/api/tasks?state=open"), "invalid-query"),
    "value": (lambda: api().post({"title": ""}), "invalid-body"),
    "host": (lambda: api().get("/api/tasks", Host="elsewhere.example"), "malformed-request"),
    "precondition": (lambda: api().patch(f"/api/tasks/{api().create()['id']}", {}, If_Match='"9"'), "stale-version"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_refused_says_its_type(name):
    send, kind = _REFUSED[name]
    response = send()
    assert response["Content-Type"] == "application/problem+json"
    document = response.json()
    assert is_sound(document)
    assert document["type"] == BY_NAME[kind].uri
    assert document["request_id"] == response["X-Request-ID"]


def test_a_405_and_a_415_say_what_there_is(db):
    allowed = {method.strip() for method in api().send("DELETE", "/api/tasks")["Allow"].split(",")}
    assert {"GET", "HEAD", "POST"} <= allowed
    assert api().post(b"{}", content_type="text/plain")["Accept"] == "application/json"


def _raises(error):
    def fault(*_, **__):
        raise error

    return fault


_FAULTS = {
    "middleware": ("taskpulse.middleware._reason", 500),
    "authentication": ("tasks.api.authentication._caller", 500),
    "permission": ("tasks.api.permissions.rights_of", 500),
    "query": ("tasks.api.queries.page", 500),
    "statement": ("django.db.backends.utils.CursorWrapper.execute", 500),
    "round trip": ("taskpulse.postgresql.round_trips.RoundTrips.fetch", 500),
    "answer": ("tasks.api.views.list_response", 500),
    "resolver": ("django.urls.resolvers.URLResolver.resolve", 500),
    "last middleware": ("taskpulse.access.ended", 500),
}


@pytest.mark.django_db
@pytest.mark.parametrize("by_token", [True, False], ids=["token", "session"])
@pytest.mark.parametrize("layer", _FAULTS)
def test_a_fault_in_any_layer_tells_nothing_of_the_inside(layer, by_token, monkeypatch, caplog):
    target, status = _FAULTS[layer]
    user = person("admin")
    caller = Api(user if by_token else None)
    if not by_token:
        caller.client.force_login(user)
    monkeypatch.setattr(target, _raises(ProgrammingError(_SECRET)))
    response = caller.get("/api/tasks")
    if layer in ("authentication", "round trip") and not by_token:  # where a session is signed in by a cursor
        assert response.status_code == 200
        return
    assert response.status_code == status
    assert is_sound(response.json())
    assert response["Content-Type"] == "application/problem+json"
    assert not any(word in response.content.decode() for word in (*_SECRET.split()[1:], "Traceback", ".py", "ProgrammingError"))
    assert _SECRET in caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("state", "kind"),
    [("57014", "database-timeout"), ("55P03", "locked"), ("08006", "database-unavailable"), (None, "database-unavailable")],
)
def test_what_the_database_refuses_is_told_without_the_drivers_words(state, kind, monkeypatch):
    class Cause(Exception):
        sqlstate = state

    error = OperationalError(_SECRET)
    error.__cause__ = Cause(_SECRET)
    monkeypatch.setattr(queries, "page", _raises(error))
    response = api().get("/api/tasks")
    assert problem(response, 503)["type"] == BY_NAME[kind].uri
    assert response["Retry-After"]
    assert "hunter2" not in response.content.decode()


@pytest.mark.django_db
def test_a_fault_of_a_write_tells_nothing_either(monkeypatch):
    monkeypatch.setattr(writing, "assign", _raises(InternalError(_SECRET)))
    assert "hunter2" not in json.dumps(problem(api().post({"title": "x"}), 500))


def test_a_fault_of_a_probe_is_a_problem(monkeypatch):
    monkeypatch.setattr(health, "database_checks", _raises(ProgrammingError(_SECRET)))
    assert is_sound(problem(Client(raise_request_exception=False).get("/readyz"), 500))


def _answers(connection: socket.socket) -> tuple[bytes, dict]:
    head, _, body = connection.recv(10_000).partition(b"\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize("sent", [b"X-Request-ID: req-7\r\n", b""])
def test_a_refusal_of_the_server_itself_is_a_problem_with_the_callers_id(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\n" + sent + b"\r\n")
        assert admission.refuse(ours, may_keep=True)
        head, document = _answers(theirs)
        assert is_sound(document)
        assert document["type"] == "/api/problems/overloaded"
        assert f"X-Request-ID: {document['request_id']}".encode() in head
        assert b"\r\nDate: " in head
        if sent:
            assert document["request_id"] == "req-7"
        admission.give_up(ours)
        assert _answers(theirs)[1]["type"] == "/api/problems/request-timeout"


def test_no_type_is_left_to_about_blank():
    root = Path(problem_types.__file__).parent.parent
    sources = [path for package in ("taskpulse", "tasks", "audit") for path in (root / package).rglob("*.py")]
    assert not [path for path in sources if "about:blank" in path.read_text()]
