"""PostgreSQL and a broker for the tests, started when the first test asks for them and gone with the run.

DATABASE_URL in the environment names a server to use instead of the embedded one: the tests make and drop databases of
their own there and leave the one that it names alone. KAFKA_BOOTSTRAP_SERVERS names a broker (`make test-kafka`).

PostgreSQL refuses TRUNCATE of our tables, so that pytest-django's `transactional_db` cannot work: use `db` for what
needs no commit and `committed_db` for the rest.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import django
import hypothesis
import psycopg
import pytest
from psycopg import sql

# An example is not wrong for being slow: machines are noisy.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

# Before Django reads its settings (pytest-django does so after this file is imported).
_HOME = Path(tempfile.mkdtemp(prefix="taskpulse-tests-"))
_HOME.chmod(0o755)
(_HOME / "static").mkdir()  # whitenoise warns when there is none
for _name in ("DB_HOST", "PORT"):
    os.environ.pop(_name, None)
# The processes of pytest-xdist inherit the environment of the first, which has set DATABASE_URL by then.
_SERVED_BY = os.environ.setdefault("TESTS_POSTGRES_SERVER", os.environ.get("DATABASE_URL", ""))
_OWN_POSTGRES = not _SERVED_BY
if _OWN_POSTGRES:
    from taskpulse.embedded.postgres import EmbeddedPostgres, stop

    _postgres = EmbeddedPostgres(_HOME, durable=False, options={"max_connections": "200"})
    os.environ["DATABASE_URL"] = _postgres.url("postgres")
os.environ["TASKPULSE_WEB_TOKEN_CACHE_MS"] = "0"  # so that what a test changes counts at once
os.environ["TASKPULSE_MODE"] = "local"
os.environ["TASKPULSE_WORKER_PORT"] = "0"  # several workers run at once
os.environ["TASKPULSE_WEB_DRAIN_SECONDS"] = "0"  # no load balancer has to learn of a web role's end
os.environ["SECRET_KEY"] = secrets.token_urlsafe(50)
os.environ["TASKPULSE_HOME"] = str(_HOME)
os.environ["DJANGO_SETTINGS_MODULE"] = "taskpulse.settings"
_SERVER = os.environ["DATABASE_URL"]
_CONTRACT, _RAN = pytest.StashKey(), pytest.StashKey()
_RUN = f"taskpulse_test_{uuid.uuid4().hex[:12]}"


def pytest_configure(config):
    # The settings need the environment above, so pytest-django, which would read them before this file, cannot do it.
    django.setup()
    from tests.event_contract import EventContract

    config.stash[_CONTRACT] = EventContract()
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        # The processes of pytest-xdist are to come here first, too.
        del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_unconfigure():
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """pytest-xdist sends what was captured as UTF-8: a lone surrogate in it, which tests of logs make, would end the process."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_runtest_call(item):
    item.stash[_RAN] = True  # one that was skipped has no database


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    """Every event in the test's database, before that goes, is what its schema says; unless the test makes others on purpose."""
    uses = {"db", "committed_db"} & {*item.fixturenames} or item.get_closest_marker("django_db")
    looked = bool(uses) and item.stash.get(_RAN, False) and item.get_closest_marker("foreign_events") is None
    found = item.config.stash[_CONTRACT].violations_in_database() if looked else []
    torn_down = yield
    assert found == [], f"{len(found)} events are not what their schema says, as {found[0]}"
    return torn_down


@pytest.fixture(scope="session")
def postgres_server():
    """The server's URL. An embedded one runs without fsync: it is thrown away."""
    if not _OWN_POSTGRES:
        yield _SERVER
        return
    _postgres.prepare()
    with (_HOME / "postgres.log").open("w") as log:
        process = _postgres.start(stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            _postgres.wait_until_ready(process, 60)
            yield _SERVER
        finally:
            stop(process)


def _on_server(statement: str, *names: str) -> None:
    with psycopg.connect(_SERVER, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _url(database: str) -> str:
    from urllib.parse import urlsplit, urlunsplit

    return urlunsplit(urlsplit(_SERVER)._replace(path=f"/{database}"))


@pytest.fixture(autouse=True)
def _no_long_answer_is_left():
    """A stream that a test neither reads nor closes keeps its place until the garbage is collected; a later test may be refused."""
    from tasks.api import long_answers

    yield
    assert long_answers.places._value == long_answers.MOST, "a long answer was neither read nor closed"


@pytest.fixture(scope="session")
def migrated_template(postgres_server, django_db_blocker):
    """The name of a migrated database to which nothing connects: CREATE DATABASE … TEMPLATE copies it."""
    from django.core.management import call_command
    from django.db import connection

    template = f"{_RUN}_template"
    _on_server("CREATE DATABASE {}", template)
    with django_db_blocker.unblock():
        connection.settings_dict["NAME"] = template
        call_command("migrate", verbosity=0)
        connection.close()
    yield template
    _on_server("DROP DATABASE {} WITH (FORCE)", template)


@pytest.fixture(scope="session")
def django_db_setup(migrated_template, django_db_blocker):
    """What `db` works on: one copy of the template, each test rolled back."""
    from django.db import connection, connections

    _on_server("CREATE DATABASE {} TEMPLATE {}", _RUN, migrated_template)
    connection.settings_dict["NAME"] = _RUN
    yield
    with django_db_blocker.unblock():
        connections.close_all()
    _on_server("DROP DATABASE {} WITH (FORCE)", _RUN)


@pytest.fixture
def committed_db(request, django_db_setup, migrated_template, django_db_blocker, monkeypatch):
    """A fresh database with real commits, dropped afterwards. Django's default connection uses it, in threads too; its
    URL is the fixture's value, and DATABASE_URL for subprocesses."""
    from django.db import connection, connections

    if "db" in request.fixturenames:
        pytest.fail("`committed_db` and `db` exclude each other: what `db` does is rolled back")
    name = f"{_RUN}_{uuid.uuid4().hex[:8]}"
    shared = connection.settings_dict["NAME"]
    _on_server("CREATE DATABASE {} TEMPLATE {}", name, migrated_template)
    with django_db_blocker.unblock():
        connections.close_all()
        connection.settings_dict["NAME"] = name
        monkeypatch.setenv("DATABASE_URL", _url(name))
        try:
            yield _url(name)
        finally:
            connections.close_all()
            connection.settings_dict["NAME"] = shared
            _on_server("DROP DATABASE {} WITH (FORCE)", name)


class BrokerProcess:
    """An embedded broker of one's own: `kill`, `start` (it begins empty, on other ports), `wipe` for both."""

    def __init__(self, home: Path):
        self.home, self.process = home, None

    @property
    def bootstrap_servers(self) -> str:
        from taskpulse import kafka

        return kafka.bootstrap_servers()

    def start(self) -> None:
        from taskpulse.embedded import broker

        self.process = broker.start(self.home, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 20
        while not broker.is_ready(self.home, self.process):
            assert self.process.poll() is None, "the embedded broker ended at once"
            assert time.monotonic() < end, "the embedded broker did not start within 20 s"
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wipe(self) -> None:
        self.kill()
        self.start()


@pytest.fixture(scope="session")
def broker():
    """The bootstrap servers of the run's broker: KAFKA_BOOTSTRAP_SERVERS, else an embedded one."""
    from django.conf import settings

    if settings.KAFKA_BOOTSTRAP_SERVERS:
        yield settings.KAFKA_BOOTSTRAP_SERVERS
        return
    process = BrokerProcess(_HOME)
    process.start()
    yield process.bootstrap_servers
    process.kill()


def _use_topic(settings, monkeypatch) -> str:
    token = uuid.uuid4().hex[:12]
    names = {"KAFKA_TOPIC": "events", "KAFKA_AUDIT_GROUP": "audit", "KAFKA_CHECKPOINT_TOPIC": "checkpoints"}
    for name, value in ((name, f"test-{kind}-{token}") for name, kind in names.items()):
        setattr(settings, name, value)
        monkeypatch.setenv(name, value)
    return settings.KAFKA_TOPIC


@pytest.fixture
def topic(broker, settings, monkeypatch):
    """A fresh topic of 4 partitions; it and a fresh group are KAFKA_TOPIC and KAFKA_AUDIT_GROUP, for subprocesses too."""
    from taskpulse import kafka

    name = _use_topic(settings, monkeypatch)
    kafka.ensure_topic(name, partitions=4, replication=1)
    return name


def _own_home(settings, monkeypatch) -> Path:
    """A fresh TASKPULSE_HOME for an embedded broker of the test's own, with a fresh topic and group in use."""
    home = Path(tempfile.mkdtemp(prefix="broker-", dir=_HOME))
    settings.KAFKA_BOOTSTRAP_SERVERS, settings.TASKPULSE_HOME = "", home
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("TASKPULSE_HOME", str(home))
    _use_topic(settings, monkeypatch)
    return home


@pytest.fixture
def wipeable_broker(settings, monkeypatch):
    """An embedded broker of the test's own (BrokerProcess), in use with a fresh topic and group, also by subprocesses."""
    home = _own_home(settings, monkeypatch)
    process = BrokerProcess(home)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def faulty_broker(settings, monkeypatch):
    """An embedded broker in the test's own process, with faults at will (tests/mock_cluster.py); in use as above."""
    from taskpulse.embedded import broker
    from tests.mock_cluster import FaultyBroker

    home = _own_home(settings, monkeypatch)
    cluster = FaultyBroker()
    broker.write_atomically(home / broker.FILE, {"bootstrap_servers": cluster.bootstrap_servers, "pid": os.getpid()})
    yield cluster
    cluster.close()


@pytest.fixture
def start_relay(committed_db, topic):
    """Makes relays, and closes them."""
    from tasks.relay import Relay

    made = []

    def make(*arguments) -> Relay:
        made.append(Relay(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def opened():
    """Makes EventConsumers, and closes them."""
    from tests.consuming import Opened

    made = Opened()
    yield made
    made.close()


@pytest.fixture(scope="module")
def owned(postgres_server, django_db_blocker):
    """A database whose owner is no superuser, with roles of its own (tests/database_role.py), for the module: a test leaves
    nothing in it, or works on rows of its own."""
    from tests.database_role import OwnedDatabase, unchanged_role_settings

    with django_db_blocker.unblock(), unchanged_role_settings() as settings:
        database = OwnedDatabase.make(postgres_server, settings)
        yield database
        database.drop()
