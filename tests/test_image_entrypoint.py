"""How the image starts a role and asks after it: deploy/entrypoint.py and deploy/healthcheck.py, without a container."""

import http.server
import os
import re
import runpy
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRYPOINT = ROOT / "deploy" / "entrypoint.py"
entrypoint = runpy.run_path(str(ENTRYPOINT))
healthcheck = runpy.run_path(str(ROOT / "deploy" / "healthcheck.py"))


def command_line(*arguments):
    return entrypoint["command_line"](list(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["web"], ["-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "taskpulse.wsgi"]),
        (["relay"], ["manage.py", "relay_outbox"]),
        (["consumer", "audit"], ["manage.py", "consume_events", "audit"]),
        (["migrate", "--plan"], ["manage.py", "migrate", "--noinput", "--plan"]),
        (["seed_demo", "--tasks", "3"], ["manage.py", "seed_demo", "--tasks", "3"]),
        (["createsuperuser"], ["manage.py", "createsuperuser"]),
        (["check", "--deploy"], ["manage.py", "check", "--deploy"]),
        (["help"], ["manage.py", "help"]),
    ],
)
def test_a_role_or_command_becomes_its_command_line(arguments, expected):
    assert command_line(*arguments) == [sys.executable, *expected]


def test_each_command_of_the_project_can_be_started():
    own = {file.stem for file in ROOT.glob("*/management/commands/[a-z]*.py")}
    assert own
    for name in own:
        assert command_line(name)[2] == name


@pytest.mark.parametrize("arguments", [["wbe"], [], [""], ["relay;id"], ["../manage.py"], ["--help"]])
def test_an_unknown_role_ends_with_status_2_and_the_right_ones(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line(*arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.findall(r"^  (\w+)", said, re.M) == ["web", "relay", "consumer", "migrate"]
    assert not arguments or not arguments[0] or arguments[0] in said


def test_the_role_takes_over_the_process():
    """Same process id, so that a container's signals reach the role itself."""
    environment = {**os.environ, "SECRET_KEY": "x" * 50, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    code = "import os; print(os.getpid())"
    process = subprocess.Popen(
        [sys.executable, ENTRYPOINT, "shell", "--no-imports", "-c", code],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(process.communicate(timeout=60)[0]) == process.pid


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/opt/venv/bin/python", "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "taskpulse.wsgi"], "web"),
        (["/opt/venv/bin/python", "manage.py", "relay_outbox"], "worker"),
        (["/opt/venv/bin/python", "manage.py", "consume_events", "audit"], "worker"),
        (["/sbin/docker-init", "--", "python", "deploy/entrypoint.py", "web"], "web"),
        (["/opt/venv/bin/python", "manage.py", "migrate", "--noinput"], None),
    ],
)
def test_the_health_check_reads_the_role_off_the_first_process(words, expected):
    assert healthcheck["role"](words) == expected


def test_the_health_check_knows_each_role_that_serves():
    kinds = {role: healthcheck["role"](command) for role, (command, _) in entrypoint["ROLES"].items()}
    assert kinds == {"web": "web", "relay": "worker", "consumer": "worker", "migrate": None}


@pytest.fixture
def role_that_answers():
    """Starts a server that answers /healthz with a status; gives its port."""
    servers = []

    def start(status: int) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/healthz" else 404)
                self.end_headers()
                self.wfile.write(b"why")

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return str(server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("kind", "setting"), [("web", "PORT"), ("worker", "TASKPULSE_WORKER_PORT")])
def test_the_health_check_says_what_is_wrong(role_that_answers, kind, setting):
    wrong = healthcheck["wrong"]
    assert wrong(kind, {setting: role_that_answers(200)}) is None
    assert wrong(kind, {setting: role_that_answers(503)}) == "/healthz: 503 why"
    assert "ConnectionRefusedError" in wrong(kind, {setting: "1"})


@pytest.mark.parametrize(("told", "expected"), [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("10.1.2.3", "10.1.2.3")])
def test_the_health_check_asks_a_worker_where_it_listens(told, expected):
    variables = {"TASKPULSE_WORKER_ADDRESS": told}
    assert healthcheck["address"]("worker", variables) == expected
    assert healthcheck["address"]("web", variables) == "127.0.0.1"


def test_the_build_needs_nothing_to_be_changed_for_another_processor():
    text = (ROOT / "Dockerfile").read_text()
    instructions = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not re.search(r"amd64|arm64|x86_64|aarch64|--platform", instructions)


def test_what_is_pinned_is_pinned_once():
    """The version of Python that the image has is one that the project promises to run on."""
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+)\.(\d+)-slim-[a-z]+$", (ROOT / "Dockerfile").read_text(), re.M)
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, version)) >= tuple(map(int, least.removeprefix(">=").split(".")))
