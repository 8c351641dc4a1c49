"""`manage.py up`: from nothing to a whole service with one command, whatever is killed, until one Ctrl-C."""

import http.cookiejar
import io
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest

from audit import key_file
from taskpulse.installation import SIGNING_KEY
from taskpulse.supervisor import PrefixedLog
from taskpulse.up import Up
from tests.running_up import ROOT, RunningUp, free_port, manage, wait_until
from tests.tlog_client import Log
from tests.witness import Witness
from tests.worker_role import get, samples

on_its_own_broker = pytest.mark.skipif(bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS")), reason="the broker is not ours")


@pytest.fixture(scope="module")
def shared():
    place = Path(tempfile.mkdtemp(prefix="taskpulse-up-"))
    running = RunningUp(place / "home")
    yield running
    running.kill()
    wait_until(lambda: not _processes_of(running.home), 20, "every process has ended")
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def up(shared) -> RunningUp:
    shared.ensure_started()
    return shared


def _processes_of(home: Path) -> list[psutil.Process]:
    """Whatever runs for that directory, orphans included: it is in every role's environment, and in PostgreSQL's arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(home) in " ".join(process.cmdline()) or process.environ().get("TASKPULSE_HOME") == str(home)
            if named and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_relay_and_consumer_answer_probes_on_free_ports_of_their_own(up):
    said = re.compile(r"^(relay|consumer) *\| .* probes and metrics on (http://127\.0\.0\.1:\d+)$", re.M)
    wait_until(lambda: len(dict(said.findall(up.log))) == 2, 30, "both have said where")
    urls = set(dict(said.findall(up.log)).values())
    assert len(urls) == 2
    for url in urls:
        wait_until(lambda url=url: get(f"{url}/readyz")[0] == 200, 30, "it is ready")
        found = samples(get(f"{url}/metrics")[1].decode())
        assert found['taskpulse_embedded{part="postgresql"}'] == 1
        assert found['taskpulse_embedded{part="kafka"}'] == (not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))


@pytest.mark.parametrize(("given", "ports"), [(None, ["0", "0"]), ("0", ["0", "0"]), ("9464", ["9464", "9465"])])
def test_probes_of_relay_and_consumer_are_where_the_environment_wants_them(tmp_path, given, ports):
    up = Up({"TASKPULSE_HOME": str(tmp_path), "BIND_ADDRESS": "127.0.0.2"} | ({"TASKPULSE_WORKER_PORT": given} if given else {}))
    variables = [up._variables_of(name) for name in ("relay", "consumer")]
    assert [one["TASKPULSE_WORKER_PORT"] for one in variables] == ports
    assert {one["TASKPULSE_WORKER_ADDRESS"] for one in variables} == {"127.0.0.2"}


def test_it_starts_from_nothing_and_says_what_is_embedded(up):
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/healthz", timeout=5) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/readyz", timeout=5) as answer:
        assert answer.status == 200
    assert re.search(r"PostgreSQL +embedded, data in " + re.escape(str(up.home)), up.log)
    assert "Kafka       not embedded" in up.log if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") else "Kafka       embedded" in up.log
    up.change_reaches_the_log()


@pytest.mark.skipif(os.getloadavg()[0] > 2 * (os.cpu_count() or 1), reason="the machine is busy with something else")
def test_the_first_start_is_ready_within_20_seconds(up):
    assert float(re.search(r"ready in ([\d.]+) s", up.log)[1]) < 20


def test_the_credentials_are_shown_once_and_kept_for_their_owner_alone(up):
    assert set(up.credentials) == {"url", "username", "password", "token"}
    assert up.credentials["url"] == f"http://127.0.0.1:{up.port}"
    for name in ("password", "token"):
        assert up.log.count(up.credentials[name]) == 1
        assert len(up.credentials[name]) >= 20
    for name in ("credentials.json", "environment.json"):
        assert stat.S_IMODE((up.home / name).stat().st_mode) == 0o600


def test_the_token_and_the_password_work(up):
    assert up.call("GET", "/api/tasks")[0] == 200
    _, page = _sign_in(up, "/healthz")
    assert page.url.endswith("/healthz")


def _sign_in(up, to: str):
    """A browser that is signed in to the console, and the page that it was led to."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    page = opener.open(f"{up.credentials['url']}/admin/login/", timeout=10).read().decode()
    form = {"username": up.credentials["username"], "password": up.credentials["password"], "next": to}
    return opener, opener.open(f"{up.credentials['url']}/admin/login/", _form(page, **form), timeout=10)


def _form(page: str, **fields) -> bytes:
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    return urllib.parse.urlencode(fields | {"csrfmiddlewaretoken": token}).encode()


def test_each_role_signs_in_to_postgresql_as_its_own(up):
    up.change_reaches_the_log()
    with up.as_owner() as session:
        rows = session.execute(
            "SELECT usename, application_name FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchall()
        owner = session.info.user
    assert {user for user, _ in rows} == {"taskpulse_web", "taskpulse_worker", owner}
    assert {user for user, application in rows if "relay" in application} == {"taskpulse_worker"}
    assert "taskpulse.W020" not in up.log


def test_a_held_event_is_released_in_the_console_and_recorded(up):
    """Each role does its part with its own rights: the web role writes and releases, the worker holds and records."""
    up.change_reaches_the_log()
    task = up.call("POST", "/api/tasks", {"title": "to be held"})[1]
    path = f"/api/tasks/{task['id']}"
    wait_until(lambda: up.call("GET", f"{path}/history")[1], 20, "its creation is in the log")
    up.role("consumer").suspend()
    assert up.call("PATCH", path, {"status": "completed"})[0] == 200
    with up.as_owner() as session:
        held = session.execute(
            "UPDATE tasks_outbox SET held_at = now(), held_reason = 'by the test', published_at = NULL, attempts = attempts + 1 "
            "WHERE subject_id = %s RETURNING id", [task["id"]],
        ).fetchall()  # fmt: skip
    assert len(held) == 1
    up.role("consumer").resume()
    browser, _ = _sign_in(up, "/healthz")
    outbox = f"{up.credentials['url']}/admin/tasks/outboxevent/"
    page = browser.open(outbox, timeout=10).read().decode()
    assert "by the test" in page
    assert [entry["version"] for entry in up.call("GET", f"{path}/history")[1]] == [1]
    sent = _form(page, action="release", _selected_action=str(held[0][0]), index="0")
    assert "1 event released." in browser.open(outbox, sent, timeout=10).read().decode()
    wait_until(lambda: len(up.call("GET", f"{path}/history")[1]) == 2, 20, "the released event is in the log")
    history = browser.open(f"{up.credentials['url']}/admin/tasks/task/{task['id']}/history/", timeout=10).read().decode()
    assert "completed" in history
    assert "to be held" in str(up.call("GET", f"/api/audit?task={task['id']}")[1])


def test_every_line_of_a_role_is_prefixed_and_without_colour_in_a_file(up):
    lines = up.log.split("Ctrl-C stops everything")[1].strip().splitlines()
    assert lines
    assert all(re.match(r"(up|web|relay|consumer|broker|postgres|setup) +\| ", line) for line in lines)
    assert "\x1b" not in up.log


def test_commands_in_a_second_terminal_reach_the_same_database(up):
    result = manage(up.home, "seed_demo", "--tasks", "20", **up.names)
    assert result.returncode == 0, result.stderr
    wait_until(
        lambda: "task.deleted" in str(up.call("GET", "/api/audit")[1]) or "ana" in str(up.call("GET", "/api/audit")[1]), 20, "seen"
    )


def served_checkpoint(up) -> bytes:
    request = urllib.request.Request(f"{up.credentials['url']}/audit/checkpoint")
    request.add_header("Authorization", f"Bearer {up.credentials['token']}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def signed_size(up) -> int:
    """How many entries the served checkpoint covers; 0 before there is one."""
    try:
        return int(served_checkpoint(up).split(b"\n")[1])
    except urllib.error.HTTPError:
        return 0


def verifier_key(up) -> str:
    shown = manage(up.home, "audit_key", "--show")
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.strip()


def test_the_log_is_signed_by_a_key_of_its_own_and_holds_before_an_independent_client(up):
    assert stat.S_IMODE((up.home / "audit-signing.key").stat().st_mode) == 0o600
    up.change_reaches_the_log()
    wait_until(lambda: signed_size(up) > 0, 40, "a checkpoint is served")
    log = Log.at(f"{up.credentials['url']}/audit/", verifier_key(up), Authorization=f"Bearer {up.credentials['token']}")
    assert log.check()[0] > 0


@pytest.mark.skipif(not os.environ.get("TLOG_CHECK"), reason="TLOG_CHECK names no client: COMMAND URL KEYFILE OLD_CHECKPOINT")
def test_the_log_holds_before_standard_clients(tmp_path):
    """Of a service of its own, the log for everybody: such clients bear no token. A witness cosigns it meanwhile."""
    up = RunningUp(tmp_path / "home")
    up.home.mkdir(mode=0o711)
    vkey = key_file.make(up.home / SIGNING_KEY, "taskpulse/audit").verifier
    witness = Witness("w.example.org", str(vkey))
    key, old = tmp_path / "key", tmp_path / "old"
    try:
        with witness.listening() as url:
            up.names |= {"AUDIT_LOG_PUBLIC": "true", "AUDIT_WITNESSES": f"{witness.vkey} {url}"}
            up.start()
            for tasks in ("30", "300"):
                manage(up.home, "seed_demo", "--tasks", tasks, "--seed", tasks, **up.names)
                wait_until(lambda count=int(tasks): signed_size(up) > count, 60, "the entries are signed")
                wait_until(lambda: witness.holds(served_checkpoint(up)), 30, "the witness cosigns")
                if not old.exists():
                    old.write_bytes(served_checkpoint(up))
        key.write_text(verifier_key(up))
        command = [*os.environ["TLOG_CHECK"].split(), f"{up.credentials['url']}/audit/", str(key), str(old)]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert checked.returncode == 0, checked.stderr
        assert "Successfully fsck'd log" in checked.stdout
        assert "consistent with size" in checked.stdout
    finally:
        up.kill()


def test_a_second_up_is_refused_and_harms_nothing(up):
    before = {process.pid for process in up.descendants()}, (up.home / "environment.json").read_text()
    result = manage(up.home, "up", PORT=str(free_port()), DATABASE_URL="postgresql://u@other/db")
    assert result.returncode == 1
    assert f"process {up.process.pid}, http://127.0.0.1:{up.port}" in result.stderr
    assert "postgres |" not in result.stdout
    assert {process.pid for process in up.descendants()} >= {pid for pid in before[0] if psutil.pid_exists(pid)}
    assert (up.home / "environment.json").read_text() == before[1]
    assert up.call("GET", "/api/tasks")[0] == 200
    again = manage(up.home, "up", PORT=str(free_port()))
    assert f"process {up.process.pid}" in again.stderr  # the refused one has not taken the lock's note for its own


def test_a_port_in_use_is_named_before_anything_starts(up, tmp_path):
    result = manage(tmp_path / "home", "up", PORT=str(up.port))
    assert result.returncode == 1
    assert f"port {up.port} of 127.0.0.1 is in use" in result.stderr
    assert not (tmp_path / "home" / "postgres").exists()


def test_after_a_kill_the_port_may_still_be_held_for_a_moment(tmp_path):
    """A web worker whose `up` was killed ends its requests before it lets the port go."""
    held = socket.create_server(("127.0.0.1", 0))
    port = held.getsockname()[1]
    said = io.StringIO()
    own = Up({"TASKPULSE_HOME": str(tmp_path), "PORT": str(port), "PATH": "/bin"})
    own.log = PrefixedLog(said)
    (tmp_path / "up.lock").write_text('{"pid": 1, "url": "killed"}')
    own.installation.acquire(own.url)
    assert own.installation.left_in_haste
    freed = threading.Timer(0.5, held.close)
    freed.start()
    listener = own._listen()
    assert listener.getsockname()[1] == port
    assert f"port {port} of 127.0.0.1 is still in use" in said.getvalue()
    listener.close()


@pytest.mark.parametrize(
    "role", ["web", "relay", "consumer", pytest.param("broker", marks=on_its_own_broker), "postgres"]
)  # fmt: skip
def test_a_role_that_is_killed_is_started_again(up, role):
    old = up.role(role)
    old.kill()

    def revived():
        try:
            return up.role(role).pid != old.pid
        except StopIteration:
            return False

    wait_until(revived, 15, f"another {role} runs")
    assert re.search(rf"up +\| {role} was ended by SIGKILL: started again in", up.log)
    up.change_reaches_the_log()


def test_a_web_worker_that_is_killed_is_replaced(up):
    wait_until(lambda: len(up.role("web").children()) == 2, 15, "two workers")
    old = up.role("web").children()[0]
    old.kill()
    wait_until(lambda: len(workers := up.role("web").children()) == 2 and old not in workers, 15, "two workers again")
    up.change_reaches_the_log()


def test_no_connection_is_refused_while_the_web_role_starts_again(up):
    up.role("web").kill()
    for _ in range(10):
        assert up.call("GET", "/api/tasks")[0] == 200


def test_ctrl_c_ends_everything_in_order_and_the_next_start_keeps_the_credentials(up):
    before = up.credentials
    processes = up.descendants()
    began = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - began < 25
    assert not [process for process in processes if process.is_running()]
    assert not _processes_of(up.home)
    assert "killed" not in up.log
    assert up.log.index("Shutting down: Master") < up.log.index("received fast shutdown request")
    up.start()
    assert up.credentials == before
    assert before["token"] not in up.log
    assert f"password and API token are in {up.home / 'credentials.json'}" in up.log
    assert up.call("GET", "/api/tasks")[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_supervisor_leaves_no_process_and_the_next_start_is_whole(up):
    assert len(up.descendants()) > 5
    up.kill()
    up.start()  # at once: what was left may still be ending
    up.change_reaches_the_log()
    up.kill()
    wait_until(lambda: not _processes_of(up.home), 15, "every process has ended")


def test_a_second_ctrl_c_kills_what_does_not_end(up):
    up.role("relay").suspend()
    up.press_ctrl_c()
    wait_until(lambda: "stopping (once more Ctrl-C kills)" in up.log, 5, "the stop has begun")
    up.press_ctrl_c()
    up.process.wait(10)
    assert "relay does not end in time: killed" in up.log
    assert not _processes_of(up.home)


def _roles_are_gone(up: RunningUp) -> bool:
    try:
        with up.as_owner() as session:
            for role in ("taskpulse_web", "taskpulse_worker", "taskpulse_auditor"):
                session.execute(f"DROP OWNED BY {role}")
                session.execute(f"DROP ROLE {role}")
    except psycopg.OperationalError:
        return False  # it starts
    return True


def test_a_leftover_postgresql_is_ended_first_and_data_of_a_version_without_roles_work(shared):
    """As where the system does not tell of the supervisor's death: the server is still there, without a parent."""
    if not (shared.home / "postgres").exists():
        shared.start()
    if shared.process.poll() is None:
        shared.stop()
    code = (
        "import sys, pathlib; from taskpulse.embedded import postgres, unprivileged;"
        "unprivileged._LINUX = False; p = postgres.EmbeddedPostgres(pathlib.Path(sys.argv[1])); p.prepare(); print(p.start().pid)"
    )
    with tempfile.TemporaryFile() as output:
        subprocess.run([sys.executable, "-c", code, str(shared.home)], cwd=ROOT, stdout=output, stderr=output, check=True)
    wait_until(lambda: _processes_of(shared.home), 10, "the leftover runs")
    leftover = _processes_of(shared.home)[0]
    wait_until(lambda: _roles_are_gone(shared), 20, "the data are as a version without roles left them")
    shared.start()
    # Who adopted it may not have looked after it yet.
    assert not leftover.is_running() or leftover.status() == psutil.STATUS_ZOMBIE
    shared.change_reaches_the_log()


def test_a_wrong_setting_is_named(tmp_path):
    result = manage(tmp_path, "up", PORT="http")
    assert result.returncode == 1
    assert "PORT: expected a whole number from 1 to 65535, got 'http'" in result.stderr
    assert "Traceback" not in result.stderr
    result = manage(tmp_path, "up", PORT=str(free_port()), DATABASE_URL="mysql://u:hunter2@h/db")
    assert "DATABASE_URL: expected postgresql://" in result.stderr
    assert "hunter2" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_without_a_database_says_what_to_set(tmp_path):
    result = manage(tmp_path, "check", SECRET_KEY="x")
    assert result.returncode == 1
    assert "no database is named: set DATABASE_URL" in result.stderr
    assert "Traceback" not in result.stderr
