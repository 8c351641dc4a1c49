"""The logs of all roles: one form, a request's whole story by its id, exceptions once, nothing that is nobody's business."""

import http.client
import io
import json
import logging
import logging.config
import os
import subprocess
import sys
import uuid
from contextlib import contextmanager

import pytest
from django.db import IntegrityError, connection
from hypothesis import given
from hypothesis import strategies as st
from psycopg.errors import CheckViolation

from audit.models import Entry
from audit.recorder import Recorder
from taskpulse import database, logs
from taskpulse.event_consumer import EventConsumer
from tasks import context, events
from tasks.models import OutboxEvent, Task
from tasks.relay import Relay
from tests.api_client import Api, api, person
from tests.recording import messages, publish_all, record, waiting
from tests.running_up import ROOT, free_port, wait_until

REQUEST = "0d8f6e5a-story-1"


@contextmanager
def captured(form: str = "json", level: str = "debug"):
    """What a process with this configuration writes."""
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("taskpulse")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter() if form == "json" else logs.TextFormatter())
    before = ours.level
    root.addHandler(handler)
    ours.setLevel(level.upper())
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)


def written(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# The form.


def test_a_line_is_an_object_with_time_level_logger_and_fields():
    with captured() as stream:
        logging.getLogger("taskpulse.x").warning("%(a)d of %(b)s", {"a": 1, "b": "two\nlines", "c": [1, 2], "d": None})
    (line,) = written(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning", "logger": "taskpulse.x", "pid": os.getpid(), "message": "1 of two\nlines", "a": 1, "b": "two\nlines",
        "c": [1, 2],
    }  # fmt: skip


def test_people_see_the_fields_that_the_message_does_not_show():
    with captured("text") as stream:
        logging.getLogger("taskpulse.x").info("%(a)d things", {"a": 1, "c": [1, 2], "d": "x\ny"})
    assert stream.getvalue()[24:] == "INFO    x: 1 things c=1,2 d=x\\ny\n"


@given(st.text(st.characters()))
def test_no_text_breaks_a_line(text):
    for form in ("json", "text"):
        with captured(form) as stream:
            logging.getLogger("taskpulse.x").info("it said %s", text)
        assert stream.getvalue().count("\n") == 1
        assert len(stream.getvalue().splitlines()) == 1 or form == "json"
        if form == "json":
            assert json.loads(stream.getvalue())["message"] == f"it said {text}"


def test_every_line_inside_a_request_bears_its_ids():
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with captured() as stream, context.use(context.Context(request_id="r", traceparent=trace)):
        logging.getLogger("taskpulse.x").info("inside")
        logging.getLogger("django").warning("inside too")
    assert [(line["request_id"], line["trace_id"]) for line in written(stream)] == [("r", "a" * 32)] * 2


def test_for_debugging_others_stay_at_info():
    """Django's and psycopg's lines for debugging hold statements with their values."""
    found = logs.configuration("json", "DEBUG")
    assert (found["root"]["level"], found["loggers"]["django"]["level"]) == (logging.INFO, logging.INFO)
    assert found["loggers"]["taskpulse"]["level"] == "DEBUG"
    assert logs.configuration("json", "ERROR")["root"]["level"] == logging.ERROR


# What PostgreSQL says of a row stays where it was said.


def test_of_a_refused_row_the_log_names_the_rule_and_not_the_values(db):
    values = ["a secret", "none"]
    with pytest.raises(IntegrityError, match="a secret") as refused, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_task (id, title, description, priority, status, labels) "
            "VALUES (uuidv7(), %s, '', %s, 'pending', '{}')",
            values,
        )
    with captured() as stream:
        logging.getLogger("taskpulse.x").error("it failed", exc_info=refused.value)
    (line,) = written(stream)
    assert "a secret" not in stream.getvalue()
    assert line["exception"] == "IntegrityError: SQLSTATE 23514, table tasks_task, constraint task_priority"
    assert "which led to" in line["stack"]
    assert "test_logs.py" in line["stack"]


def test_of_a_server_that_is_away_the_log_says_what_it_said(db):
    from django.db import OperationalError
    from psycopg.errors import AdminShutdown

    error = OperationalError()
    error.__cause__ = AdminShutdown("terminating connection")
    assert logs.describe(error).startswith("OperationalError: SQLSTATE 57P01")
    assert logs.describe(ValueError("x\ny")) == "ValueError: x\\ny"


# An exception.


def test_an_exception_is_told_once_with_its_stack_and_never_in_the_answer(db, monkeypatch):
    def fail(*_):
        raise RuntimeError(fault)

    fault = "a fault was injected"
    for path, target in (("/api/tasks", "tasks.api.queries.page"), ("/admin/", "taskpulse.console.dashboard")):
        program = api()
        program.client.force_login(person(is_superuser=True, is_staff=True))
        with monkeypatch.context() as patch, captured() as stream:
            patch.setattr(target, fail)
            response = program.get(path, x_request_id="req-9")
        assert response.status_code == 500
        told = [line for line in written(stream) if "stack" in line]
        assert [(line["level"], line["exception"], line["request_id"]) for line in told] == [
            ("error", f"RuntimeError: {fault}", "req-9")
        ]
        assert "in fail" in told[0]["stack"]
        assert stream.getvalue().count(fault) == 2  # in `exception` and at the end of `stack`
        for secret in (b"injected", b"RuntimeError", b"Traceback", b"fail"):
            assert secret not in response.content.replace(b"failed", b"")


def test_a_command_that_an_exception_ends_says_so_in_the_same_form(monkeypatch):
    import manage

    def fail(arguments):
        raise IntegrityError("a row") from CheckViolation("Failing row contains (a secret)")

    monkeypatch.setattr(manage, "execute_from_command_line", fail)
    monkeypatch.setattr(sys, "argv", ["manage.py", "relay_outbox"])
    for module, name in ((context, "_process_actor"), (database, "_command")):  # which manage.py sets
        monkeypatch.setattr(module, name, getattr(module, name))
    with captured() as stream, pytest.raises(SystemExit, match="1"):
        manage.main()
    (line,) = written(stream)
    assert (line["level"], line["message"]) == ("critical", "relay_outbox ended by an exception")
    assert "in fail" in line["stack"]


# The whole story.


def test_the_request_id_leads_from_the_request_to_the_entry(committed_db, topic):

    program = api()
    with captured() as stream:
        key = program.post({"title": "x"}, x_request_id=REQUEST).json()["id"]
        program.patch(f"/api/tasks/{key}", {"status": "completed"}, x_request_id=REQUEST)
        program.create()
        relay, consumer = Relay(), EventConsumer(Recorder())
        try:
            wait_until(lambda: relay.step() or not OutboxEvent.objects.filter(published_at=None).exists(), 30, "published")
            consumer.open()
            wait_until(lambda: consumer.step(0.2) is not None and not waiting(), 30, "recorded")
        finally:
            relay.close()
            consumer.close()
    story = [line for line in written(stream) if REQUEST in json.dumps(line)]
    assert [line["logger"] for line in story if line["logger"] == "taskpulse.access"] == ["taskpulse.access"] * 2
    assert {line["logger"] for line in story} == {"taskpulse.access", "taskpulse.relay", "taskpulse.recorder"}
    entries = list(Entry.objects.filter(request_id=REQUEST).order_by("seq"))
    of_requests = [line for line in story if line["logger"] == "taskpulse.access"]
    assert [str(entry.event_id) for entry in entries] == [name for line in of_requests for name in line["event_ids"]]
    ranges = [(line["seq_first"], line["seq_last"]) for line in story if "seq_first" in line]
    for entry in entries:
        assert any(first <= entry.seq <= last for first, last in ranges)


def test_a_change_without_a_request_is_found_by_its_task_and_its_event(committed_db, topic):
    tasks = [Task.objects.create(title="x") for _ in range(2)]
    relay = Relay()
    with captured() as stream:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE tasks_task SET priority = 'high'")
        try:
            wait_until(lambda: relay.step() or not OutboxEvent.objects.filter(published_at=None).exists(), 30, "published")
        finally:
            relay.close()
        record(messages(waiting()))
    entries = {str(entry.event_id): str(entry.task_id) for entry in Entry.objects.all()}
    assert len(entries) == 4
    for logger in ("taskpulse.relay", "taskpulse.recorder"):
        lines = [line for line in written(stream) if line["logger"] == logger and "event_ids" in line]
        assert sorted(name for line in lines for name in line["event_ids"]) == sorted(entries)
        assert {name for line in lines for name in line["task_ids"]} == {str(task.pk) for task in tasks}


def test_in_a_catch_up_every_request_is_found_and_no_event_has_a_line_of_its_own(committed_db):
    rows = []
    for number in range(450):
        with context.use(context.Context(request_id=f"request-{number // 2}")):
            rows.append(Task.objects.create(title="x"))
    publish_all()
    with captured() as stream:
        record(messages(waiting()))
    lines = [line for line in written(stream) if line["logger"] == "taskpulse.recorder"]
    assert [len(line["request_ids"]) for line in lines] == [100, 100, 25]
    assert [name for line in lines for name in line["request_ids"]] == [f"request-{number}" for number in range(225)]
    assert {(line["recorded"], line["seq_first"], line["seq_last"]) for line in lines} == {(450, 1, 450)}
    assert not any("event_ids" in line or "task_ids" in line for line in lines)
    assert max(map(len, stream.getvalue().splitlines())) < 16_384


def test_the_longest_ids_keep_a_line_below_the_cut_of_container_engines():
    with captured() as stream:
        ids = [f"{number:0500d}" for number in range(0, 10**6, 4_000)]
        logs.batch(logging.getLogger("taskpulse.x"), "x", {"n": 1}, ids, 20, [(uuid.uuid4(), uuid.uuid4()) for _ in range(20)])
    ids = [name for line in written(stream) for name in line["request_ids"]]
    assert len(ids) == 250
    assert {len(name) for name in ids} == {128}
    assert max(map(len, stream.getvalue().splitlines())) < 16_384


_ids = st.text(st.sampled_from("aZ09._:/+=@-"), min_size=1, max_size=128)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.just('","requestid":"forged"'), _ids | st.none(), _ids | st.none())
def test_an_attribute_is_read_without_parsing(text, request_id, traceparent):
    own = str(uuid.uuid4())
    attributes = {"actorid": text or "x", "id": own, "reason": text, "requestid": request_id, "traceparent": traceparent}
    attributes = {name: value for name, value in attributes.items() if value}
    payload = events.canonical(
        attributes | {"data": {"task": {"a": 1, "id": "another", "title": text, "labels": [text, ',"requestid":"x"']}}, "type": "x"}
    )
    assert events.attribute(payload, events.ID) == own
    assert events.event_id(payload) == uuid.UUID(own).bytes
    assert events.attribute(payload, events.REQUEST_ID) == request_id
    assert events.attribute(payload, events.TRACEPARENT) == traceparent


def test_an_attribute_that_no_request_has_is_none():
    assert events.attribute(events.canonical({"a": "", "requestid": 'x"y'}), events.REQUEST_ID) is None
    assert events.attribute(events.canonical({"a": "", "requestid": "x y"}), events.REQUEST_ID) is None
    for text in ("", "1", "g" * 36, "0" * 31, "é" * 32):
        assert events.event_id(events.canonical({"a": "", "id": text})) is None
    for nothing in (b"", b"123456" + b"0" * 36):
        assert events.event_id(nothing) is None


# Nothing that is nobody's business.

TITLE, NOTE, PASSWORD, LABEL, REASON = "title-8842", "description-8842", "password-8842", "label-8842", "reason-8842"


def test_no_role_logs_payloads_titles_tokens_or_passwords(committed_db, topic, tmp_path):
    """Every kind of request to the web role and a whole run of relay and consumer, as they are deployed; then grep."""
    user = person("admin", is_staff=True, is_superuser=True)
    user.set_password(PASSWORD)
    user.save()
    program = Api(user)
    token, port = program.headers["Authorization"].removeprefix("Bearer "), free_port()
    environment = os.environ | {"TASKPULSE_LOG_FORMAT": "json", "TASKPULSE_LOG_LEVEL": "debug"}
    gunicorn = ["-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "taskpulse.wsgi"]
    paths = {"web": gunicorn, "relay": ["manage.py", "relay_outbox"], "consumer": ["manage.py", "consume_events"]}
    processes = []
    for role, command in paths.items():
        with (tmp_path / role).open("w") as log:
            processes.append(subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log))
    try:
        wait_until(lambda: _answers(port), 40, "the web role answers")
        _every_kind_of_request(port, token, user)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE tasks_task SET title = title || %s", [TITLE])
        wait_until(lambda: not waiting(), 40, "everything is recorded")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    for role in paths:
        text = (tmp_path / role).read_text()
        for secret in (TITLE, NOTE, PASSWORD, LABEL, REASON, token, token[3:30], "sessionid", "csrfmiddlewaretoken"):
            assert secret not in text, (role, secret, text)
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines, role
        assert all(line["level"] in {"debug", "info", "warning"} for line in lines), text
    statuses = {json.loads(line).get("status") for line in (tmp_path / "web").read_text().splitlines()}
    assert {200, 201, 204, 302, 400, 401, 403, 404, 412, 413, 415, 422} <= statuses


def _answers(port: int) -> bool:
    try:
        return _send(port, "GET", "/healthz")[0] == 200
    except OSError:
        return False


def _send(port: int, method: str, path: str, body: bytes = b"", **headers) -> tuple[int, dict, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = client.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        client.close()


def _every_kind_of_request(port: int, token: str, user) -> None:
    def program(method: str, path: str, body: bytes = b"", **headers):
        given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "X-Change-Reason": REASON}
        return _send(port, method, path, body, **(given | headers))

    whole = json.dumps({"title": TITLE, "description": NOTE, "labels": [LABEL]}).encode()
    status, _, body = program("POST", "/api/tasks", whole)
    assert status == 201, body
    path = f"/api/tasks/{json.loads(body)['id']}"
    for method, where, sent, headers in (
        ("GET", path, b"", {}),
        ("GET", f"/api/tasks?label={LABEL}", b"", {}),
        ("GET", f"/api/tasks?{TITLE}={TITLE}", b"", {}),
        ("GET", f"/api/tasks/{TITLE}", b"", {}),
        ("GET", f"/{TITLE}?password={PASSWORD}", b"", {}),
        ("GET", f"/admin/{TITLE}/", b"", {}),
        ("PATCH", path, whole, {"If-Match": '"77"'}),
        ("POST", "/api/tasks", f'{{"title": "{TITLE}", '.encode(), {}),
        ("POST", "/api/tasks", f'{{"title": "{TITLE}", "{TITLE}": "{NOTE}", "status": "{TITLE}"}}'.encode(), {}),
        ("POST", "/api/tasks", f'{{"title": "{TITLE}\\u0000"}}'.encode(), {}),
        ("POST", "/api/tasks", whole, {"Content-Type": f"text/{TITLE}"}),
        ("POST", "/api/tasks", whole * 20_000, {}),
        (TITLE.upper().replace("-", ""), "/api/tasks", whole, {}),
        ("GET", "/api/tasks", b"", {"Authorization": f"Bearer {token[:-1]}"}),
        ("GET", "/api/tasks", b"", {"Authorization": f"Basic {PASSWORD}"}),
        ("GET", "/api/tasks", b"", {"Host": f"{TITLE}.example"}),
        (
            "GET",
            "/api/tasks",
            b"",
            {"X-Request-ID": f"{TITLE} x", "traceparent": PASSWORD, "Cookie": f"sessionid={PASSWORD}"},
        ),
    ):
        program(method, where, sent, **headers)
    _browse(port, user)
    assert program("DELETE", path)[0] == 204


def _browse(port: int, user) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    _, headers, _ = _send(port, "GET", "/admin/login/")
    cookie = headers["Set-Cookie"].split(";")[0]
    proof = cookie.partition("=")[2]
    for name, password in ((TITLE, PASSWORD), (user.username, f"{PASSWORD}x"), (user.username, PASSWORD)):
        body = f"username={name}&password={password}&csrfmiddlewaretoken={proof}&next=/admin/".encode()
        status, headers, _ = _send(port, "POST", "/admin/login/", body, Cookie=cookie, **form)
    assert status == 302
    session = "; ".join(part.split(";")[0] for part in headers["Set-Cookie"].split(", ") if "=" in part)
    _send(port, "GET", "/admin/", Cookie=session)
    body = f"title={TITLE}&description={NOTE}".encode()
    assert _send(port, "POST", "/admin/tasks/task/add/", body, Cookie=session, **form)[0] == 403  # no CSRF token
