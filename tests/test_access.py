"""The line of each request and the HTTP metrics: right, bounded whatever is sent, and shared by several workers."""

import fcntl
import json
import logging
import os
import platform
import random
import signal
import string
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families
from psycopg.errors import DeadlockDetected

from taskpulse import VERSION, access
from tasks.audited import AuditedModel
from tasks.models import OutboxEvent, Task
from tests.api_client import Api, api, person
from tests.promtool import promtool
from tests.running_up import ROOT, free_port, wait_until

STATUSES = ("200", "302", "401", "404")
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture
def lines(caplog):
    """The fields of each request's line so far."""
    caplog.set_level(logging.DEBUG, "taskpulse.access")
    return lambda: [record.args for record in caplog.records if record.name == "taskpulse.access"]


def series() -> set[tuple]:
    return {(s.name, *sorted(s.labels.items())) for m in REGISTRY.collect() if m.name.startswith("http_") for s in m.samples}


def requests_of(path: str) -> float:
    found = (REGISTRY.get_sample_value("http_requests_total", {"method": "GET", "path": path, "status": s}) for s in STATUSES)
    return sum(value or 0 for value in found)


# The line.


def test_a_write_says_who_what_and_which_events(committed_db, lines):
    program = api()
    response = program.post({"title": "x"}, x_request_id="req-1", traceparent=TRACE)
    key, event = response.json()["id"], OutboxEvent.objects.get()
    (line,) = lines()
    assert line.pop("duration_ms") > 0
    assert line == {
        "method": "POST", "route": "/api/tasks", "status": 201, "request_id": "req-1", "actor_id": str(program.user.pk),
        "task_id": key, "events": 1, "event_ids": [str(event.event_id)],
    }  # fmt: skip


def test_what_is_rolled_back_is_no_event_of_the_request(committed_db, lines, monkeypatch):
    """A deadlock at the first try, as PostgreSQL tells it: the write runs again."""
    tries = []

    def once_more(self, *args, **kwargs):
        AuditedModel.save_base(self, *args, **kwargs)
        tries.append(self)
        if len(tries) == 1:
            raise OperationalError from DeadlockDetected()

    monkeypatch.setattr(Task, "save_base", once_more, raising=False)
    program = api()
    program.create()
    assert len(tries) == 2
    assert (lines()[-1]["events"], lines()[-1]["event_ids"]) == (1, [str(OutboxEvent.objects.get().event_id)])
    assert program.post({"title": ""}).status_code == 422
    assert "events" not in lines()[-1]


def test_of_many_events_the_first_are_named_and_all_are_counted(committed_db, lines):
    user = User.objects.create_superuser("ana")
    Task.objects.bulk_create([Task(title=str(n)) for n in range(30)])
    browser = Client()
    browser.force_login(user)
    keys = [str(key) for key in Task.objects.values_list("pk", flat=True)]
    response = browser.post("/admin/tasks/task/", {"action": "delete_selected", "_selected_action": keys, "post": "yes"})
    assert response.status_code == 302, response.content
    line = lines()[-1]
    assert (line["events"], len(line["event_ids"]), line["task_id"], line["actor_id"]) == (30, 20, None, str(user.pk))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/tasks/0199fd0a-facc-7048-a66e-5b1e3b42419c/", "/api/tasks/{id}"),
        ("/api/tasks/0199fd0a-facc-7048-a66e-5b1e3b42419c/history", "/api/tasks/{id}/history"),
        ("/api/audit", "/api/audit"),
        ("/admin/tasks/task/0199fd0a-facc-7048-a66e-5b1e3b42419c/change/", "/admin/tasks/task/{object_id}/change"),
        ("/admin/audit/entry/0199fd0a-facc-7048-a66e-5b1e3b42419c/change/", "/admin/audit/entry/{object_id}/change"),
        ("/admin/nowhere/", "/admin/{url}"),
        ("/", "/"),
        ("/static/nothing.css", "/static/{path}"),
        ("/secret-of-mine", "unmatched"),
    ],
)
def test_the_path_is_the_template_of_the_route(db, lines, path, route):
    before = requests_of(route)
    Client().get(path)
    line = lines()[-1]
    assert line["route"] == route
    assert requests_of(route) - before == 1
    assert line["task_id"] == ("0199fd0a-facc-7048-a66e-5b1e3b42419c" if "/task" in route and "id}" in route else None)


def test_what_machines_ask_for_is_counted_and_logged_for_debugging_alone(db, caplog):
    caplog.set_level(logging.DEBUG, "taskpulse.access")
    for path in ("/healthz", "/health", "/readyz/", "/metrics"):
        assert Client().get(path).status_code == 200
    assert Client().get("/api/schema").status_code == 200
    found = [(record.args["route"], record.levelname) for record in caplog.records if record.name == "taskpulse.access"]
    assert found == [(f"/{name}", "DEBUG") for name in ("healthz", "healthz", "readyz", "metrics")] + [("/api/schema", "INFO")]


def test_a_task_id_is_an_id_and_nothing_else(db, lines):
    program = api()
    program.get("/api/tasks/my%20secret%20title")
    assert lines()[-1]["task_id"] is None


# Bounds.


def test_random_paths_and_methods_make_no_series(db, lines):
    program, chance = api(), random.Random(7)

    def word() -> str:
        return "".join(chance.choices(string.ascii_letters + string.digits, k=12))

    def send():
        for method in ("GET", "POST", word(), word().upper(), "get", "PROPFIND"):
            for path in (f"/{word()}", f"/api/{word()}", f"/api/tasks/{word()}", f"/admin/{word()}/", f"/static/{word()}"):
                program.send(method, path)

    send()
    before = series()
    for _ in range(10):
        send()
    assert series() == before
    told = {line["method"] for line in lines()} | {line["route"] for line in lines()}
    assert told == {"GET", "POST", "OTHER", "unmatched", "/api/tasks/{id}", "/admin/{url}", "/static/{path}"}


def test_every_route_has_a_template_without_a_pattern():
    from django.urls import get_resolver
    from django.urls.resolvers import URLPattern

    def routes(resolver, before=""):
        for pattern in resolver.url_patterns:
            here = before + str(pattern.pattern).removeprefix("^")
            if isinstance(pattern, URLPattern):
                yield here
            else:
                yield from routes(pattern, here)

    found = {access.template(route) for route in routes(get_resolver())}
    assert len(found) > 50
    for path in found:
        assert path.startswith("/"), path
        assert not set(path) & set("^$()?*+\\<>[] "), path


# Several workers.


@pytest.fixture
def web(committed_db, tmp_path):
    """The web role as it is deployed, and a viewer's token."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "taskpulse.wsgi"]
    with (tmp_path / "log").open("w") as log:
        environment = os.environ | {"TASKPULSE_LOG_FORMAT": "json", "TASKPULSE_LOG_LEVEL": "debug"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    running = Web(port, psutil.Process(process.pid), tmp_path / "log", Api(person("viewer")).headers["Authorization"])
    try:
        wait_until(lambda: process.poll() is not None or running.answers(), 30, "the web role answers")
        yield running
    finally:
        process.terminate()
        process.wait(30)
    assert not running.directory.exists()


class Web:
    def __init__(self, port: int, process: psutil.Process, log: Path, token: str):
        self.port, self.process, self.log, self.token = port, process, log, token

    def get(self, path: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": self.token})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def answers(self) -> bool:
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            return False

    @property
    def directory(self) -> Path:
        if not hasattr(self, "_directory"):
            opened = (Path(file.path) for file in self.process.open_files())
            self._directory = next(path.parent for path in opened if path.name == "owned.lock")
        return self._directory

    def count(self, route: str, name: str = "http_requests_total") -> float:
        status, page = self.get("/metrics")
        assert status == 200
        families = text_string_to_metric_families(page)
        return sum(s.value for family in families for s in family.samples if s.name == name and s.labels.get("path") == route)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def test_workers_are_added_up_and_the_dead_still_count(web):
    assert os.stat(web.directory).st_mode & 0o077 == 0
    for number in range(1, 41):
        assert web.get("/api/tasks")[0] == 200
        if number % 10 == 0:
            assert web.count("/api/tasks") == number
            assert web.count("/api/tasks", "http_request_duration_seconds_count") == number
        if number % 20 == 0:  # whoever counted them is killed
            old = web.process.children()
            for worker in old:
                worker.send_signal(signal.SIGKILL)
            wait_until(lambda old=old: len(set(web.process.children()) - set(old)) == 2, 20, "two others work")
    wait_until(lambda: {int(path.stem.rpartition("_")[2]) for path in web.directory.glob("histogram_[0-9]*.db")}
               <= {web.process.pid, *(worker.pid for worker in web.process.children())}, 20, "the dead are swept")  # fmt: skip
    assert web.count("/api/tasks") == 40
    page = web.get("/metrics")[1]
    assert "django_db_execute_total" in page
    assert 'django_migrations_unapplied{connection="default"} 0.0' in page
    assert "pid=" not in page
    assert 'taskpulse_dependency_up{dependency="postgresql"} 1.0' in page
    assert f'taskpulse_build_info{{python="{platform.python_version()}",revision="unknown",version="{VERSION}"}} 1.0' in page
    promtool("check", "metrics", text=page)
    # gunicorn's own lines, ours, and nothing that is no JSON.
    assert {"gunicorn.error", "taskpulse.access"} <= {line["logger"] for line in web.lines()}
    for worker in web.process.children():
        assert worker.memory_info().rss < 120e6


def test_a_reload_and_a_killed_master_leave_no_files(web):
    first = web.directory
    web.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Hang up" in web.log.read_text() and len(web.process.children()) >= 2 and web.answers(), 20, "reloaded")
    assert web.count("/healthz") > 0
    assert first.exists()
    children = web.process.children()
    web.process.kill()
    psutil.wait_procs([web.process, *children], 20)
    # The next start on this machine removes it: this one, unless another test's came first.
    subprocess.run(
        [sys.executable, "-c", "from taskpulse.worker_metrics import Directory; Directory.of_this_master().remove()"],
        cwd=ROOT,
        check=True,
    )
    assert not first.exists()


def test_counts_survive_any_order_of_dying(tmp_path):
    from taskpulse.worker_metrics import Directory

    directory = Directory(tmp_path)
    total = 0.0
    for process in range(1, 30):
        file = MmapedDict(str(tmp_path / f"counter_{900_000 + process}.db"))
        file.write_value('["a", "a_total", {}, "help"]', process, 0.0)
        file.write_value(json.dumps(["a", "a_total", {"n": str(process)}, "help"]), 1.0, 0.0)
        file.close()
        (tmp_path / f"gauge_liveall_{900_000 + process}.db").touch()
        total += process
        if process % 7 == 0:
            directory.sweep(alive={900_000 + process})
            kinds = sorted(path.name for path in tmp_path.glob("*.db"))
            assert kinds == [f"counter_{900_000 + process}.db", "counter_retired.db", f"gauge_liveall_{900_000 + process}.db"]
    with directory.path.joinpath("merging.lock").open("a") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        directory.sweep(alive=())
        assert len(list(tmp_path.glob("counter_9*.db"))) == 2  # somebody adds them up just now
    directory.sweep(alive=())
    assert [path.name for path in tmp_path.glob("*.db")] == ["counter_retired.db"]
    found = {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(tmp_path / "counter_retired.db"))}
    assert found.pop('["a", "a_total", {}, "help"]') == total
    assert list(found.values()) == [1.0] * 29


def test_the_page_of_a_process_of_its_own_is_what_it_knows(db):
    page = Client().get("/metrics").content.decode()
    assert "http_requests_total" in page
    assert page.count("# TYPE") == generate_latest().decode().count("# TYPE")


def test_both_together_cost_little():
    """Measured at 15 µs on a slow machine; a bound that only a mistake in kind exceeds."""
    from django.test import RequestFactory
    from django.urls import resolve

    from tasks.context import Actor, Context

    request = RequestFactory().get("/api/tasks")
    request.resolver_match = resolve("/api/tasks")
    current = Context(actor=Actor("1", "ana", "user"), request_id="x")
    access.ended(request, 200, current, 0.001)
    began = time.process_time()
    for _ in range(2_000):
        access.ended(request, 200, current, 0.001)
    assert (time.process_time() - began) / 2_000 < 500e-6
