"""The API behind its real server, with real commits: concurrency, lost connections, bodies without a length."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.contrib.auth.models import User

from tasks.api import queries
from tasks.models import OutboxEvent, Task
from tests.api_client import Api, api, person, pointers
from tests.test_capture import meanwhile

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


@pytest.fixture
def web(committed_db, tmp_path):
    """gunicorn as the web role runs it, and a member's token."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "taskpulse.wsgi", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--workers", "2", "--threads", "8"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield Web(port, Api(person("member")).headers)
    finally:
        process.terminate()
        process.wait(30)


class Web:
    def __init__(self, port: int, headers: dict):
        self.port, self.headers = port, {**_HEADERS, **headers}

    def send(self, method: str, path: str, body=None, **options) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {**self.headers, **options.pop("headers", {})}, **options)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def create(self, **fields) -> dict:
        status, body = self.send("POST", "/api/tasks", json.dumps({"title": "x", **fields}))
        assert status == 201, body
        return json.loads(body)


def test_a_write_never_fails_for_being_second(web):
    """64 updates and 16 subtasks at once: all applied, each with its version and its event."""
    task = web.create()
    path = f"/api/tasks/{task['id']}"

    def write(number: int) -> int:
        if number % 5 == 0:
            return web.send("POST", "/api/tasks", json.dumps({"title": "sub", "parent": task["id"]}))[0]
        return web.send("PATCH", path, json.dumps({"title": str(number), "status": ["in_progress", "completed"][number % 2]}))[0]

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(write, range(80)))
    assert sorted(statuses) == [200] * 64 + [201] * 16
    versions = list(OutboxEvent.objects.filter(subject_id=task["id"]).order_by("version").values_list("version", flat=True))
    assert versions == list(range(1, 66))
    assert Task.objects.get(pk=task["id"]).version == 65


def test_of_many_who_name_one_version_one_wins(web):
    path = f"/api/tasks/{web.create()['id']}"

    def write(number: int) -> int:
        return web.send("PATCH", path, json.dumps({"title": str(number)}), headers={"If-Match": '"1"'})[0]

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(write, range(8))) == [200] + [412] * 7


def test_deleting_and_adding_subtasks_at_once_is_no_fault_of_the_server(web):
    for _ in range(5):
        parent = web.create()["id"]
        barrier = threading.Barrier(8)

        def race(number: int, parent=parent, barrier=barrier) -> int:
            barrier.wait()
            if number % 4 == 0:
                return web.send("DELETE", f"/api/tasks/{parent}")[0]
            return web.send("POST", "/api/tasks", json.dumps({"title": "x", "parent": parent}))[0]

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(race, range(8)))
        assert set(statuses) <= {201, 204, 404, 422}, statuses
        assert statuses.count(204) == 1
    last = {row.subject_id: row.version for row in OutboxEvent.objects.order_by("version")}
    assert all(last[str(task.pk)] == task.version for task in Task.objects.all())


def test_a_connection_that_postgresql_closed_is_replaced_without_a_failed_request(web, committed_db):
    task = web.create()
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: web.send("GET", f"/api/tasks/{task['id']}")[0], range(16)))
        assert found == [200] * 16
        with psycopg.connect(committed_db, autocommit=True) as database:
            ended = database.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert ended[0] > 0


def test_a_body_without_a_length_is_read(web):
    """RFC 9112 §7.1: chunked."""
    status, body = web.send("POST", "/api/tasks", iter([b'{"title": ', b'"in pieces"}']), encode_chunked=True)
    assert status == 201
    assert json.loads(body)["title"] == "in pieces"
    huge = (b" " * 100_000 for _ in range(12))
    assert web.send("POST", "/api/tasks", huge, encode_chunked=True)[0] == 413
    assert web.send("POST", "/api/tasks", iter([b"{"]), encode_chunked=True)[0] == 400
    assert web.send("POST", "/api/tasks", b'{"title": "' + b"x" * 1_200_000 + b'"}')[0] == 413


def test_head_and_probes(web):
    assert web.send("HEAD", "/api/tasks") == (200, b"")
    for path in ("/healthz", "/readyz"):
        assert web.send("GET", path)[0] == 200


def test_what_only_the_commit_reveals_is_told_as_a_problem(committed_db, monkeypatch):
    """A parent or a person who goes between the look-up and the commit: foreign keys are checked at the commit."""
    caller = api("member")
    monkeypatch.setattr(queries, "references", lambda *_: ("somebody", True, False))
    assert pointers(caller.post({"title": "x", "parent": "0199fd0a-facc-7048-a66e-5b1e3b42419c"})) == ["#/parent"]
    assert pointers(caller.post({"title": "x", "assignee": 2**31 - 1})) == ["#/assignee"]
    assert not Task.objects.exists()
    assert not OutboxEvent.objects.exists()


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_write_that_waited_for_a_change_of_the_assignee_names_the_new_one(committed_db, method):
    """PostgreSQL reads the row anew when it has its lock, but not what was joined to it before."""
    program, bo = api(), User.objects.create(username="bo")
    key = program.create()["id"]
    answer = meanwhile(
        committed_db, "UPDATE tasks_task SET assignee_id = %s WHERE id = %s", [bo.pk, key],
        lambda: program.send(method, f"/api/tasks/{key}", {"title": "second"}),
    )  # fmt: skip
    assert answer.status_code in {200, 204}, answer.content
    last = json.loads(bytes(OutboxEvent.objects.get(subject_id=key, version=3).payload))
    assert last["data"]["task"]["assignee"] == {"id": str(bo.pk), "name": "bo"}
    if method == "PATCH":
        assert answer.json()["assignee"] == {"id": str(bo.pk), "name": "bo"}
