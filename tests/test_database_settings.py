"""How PostgreSQL is reached: by one address or by its parts."""

import pytest

from taskpulse import database
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from tests.wrong_settings import wrong


@pytest.fixture
def env(tmp_path):
    return lambda **variables: Environment(tmp_path, DECLARED, {"SECRET_KEY": "x" * 50} | variables)


def test_an_address_is_taken_apart(env):
    assert database.address(env(DATABASE_URL="postgresql://ana:p%40ss@db.example:5433/task%20pulse?sslmode=require")) == {
        "HOST": "db.example",
        "PORT": "5433",
        "NAME": "task pulse",
        "USER": "ana",
        "PASSWORD": "p@ss",
        "OPTIONS": {"sslmode": "require"},
    }
    assert database.address(env(DATABASE_URL="postgres://postgres@/x?host=%2Frun%2Fpg"))["HOST"] == "/run/pg"


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/x", "postgresql://u:hunter2@h/", "postgresql://u:hunter2@h:port/x", "x", "postgresql://u:a/hunter2@h/x"],
)
def test_a_wrong_address_is_refused_without_its_password(env, url):
    environment = env(DATABASE_URL=url)
    database.address(environment)
    assert wrong(environment, complete=True) == ["DATABASE_URL: expected postgresql://USER:PASSWORD@HOST:PORT/NAME"]


def test_the_parts(env):
    assert database.address(env(DB_HOST="h", DB_NAME="n", DB_USER="u", DB_PASSWORD="p")) == {
        "HOST": "h", "PORT": "5432", "NAME": "n", "USER": "u", "PASSWORD": "p", "OPTIONS": {},
    }  # fmt: skip


def test_parts_that_are_missing_are_named(env):
    environment = env(DB_HOST="h")
    database.address(environment)
    assert wrong(environment) == [
        "DB_NAME is not set: expected a database's name, since DB_HOST is set",
        "DB_USER is not set: expected a role's name, since DB_HOST is set",
    ]


def test_no_database_at_all_says_what_can_be_done(env):
    environment = env()
    database.address(environment)
    (said,) = wrong(environment, complete=True)
    assert said.startswith("no database is named: set DATABASE_URL")


def test_two_addresses_that_differ_are_refused(env):
    both = {"DATABASE_URL": "postgresql://u@h/n", "DB_HOST": "h", "DB_NAME": "n"}
    agreeing = env(**both, DB_PORT="5432")
    assert database.address(agreeing)["HOST"] == "h"
    assert wrong(agreeing) == []
    for other in ({"DB_NAME": "other"}, {"DB_HOST": "other"}, {"DB_PORT": "5433"}):
        differing = env(**both | other)
        database.address(differing)
        assert wrong(differing) == ["DATABASE_URL and DB_HOST name different databases: expected one of them"]


# Behind a pooler.


@pytest.fixture
def running(monkeypatch):
    return lambda command: monkeypatch.setattr(database, "_command", command)


POOLED = {
    "DATABASE_URL": "postgresql://u@pooler/n", "DATABASE_DIRECT_URL": "postgresql://u@server/n", "TASKPULSE_POOLER": "transaction",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "host", "threshold"),
    [("", "pooler", None), ("consume_events", "pooler", None), ("relay_outbox", "server", 2), ("migrate", "server", 2)],
)
def test_what_needs_a_session_of_its_own_passes_by_the_pooler(env, running, command, host, threshold):
    running(command)
    parameters = database.configuration(env(**POOLED))
    assert (parameters["HOST"], parameters["OPTIONS"]["prepare_threshold"]) == (host, threshold)


def test_without_a_pooler_statements_are_prepared_once(env):
    assert database.configuration(env(DATABASE_URL="postgresql://u@h/n"))["OPTIONS"]["prepare_threshold"] == 2


def test_a_direct_address_is_asked_for_where_it_is_needed(env, running):
    without = {name: value for name, value in POOLED.items() if name != "DATABASE_DIRECT_URL"}
    running("relay_outbox")
    environment = env(**without)
    database.configuration(environment)
    assert wrong(environment, complete=True) == [
        "DATABASE_DIRECT_URL is not set: expected postgresql://USER:PASSWORD@HOST:PORT/NAME of PostgreSQL itself, since "
        "TASKPULSE_POOLER is transaction and relay_outbox needs a session of its own"
    ]
    running("consume_events")  # which is not to know it
    environment = env(**without)
    database.configuration(environment)
    assert wrong(environment, complete=True) == []


def test_a_direct_address_beside_an_embedded_database_is_refused(running, tmp_path):
    (tmp_path / "environment.json").write_text('{"DATABASE_URL": "postgresql://postgres@/embedded?host=/run"}')
    running("relay_outbox")
    environment = Environment(tmp_path, DECLARED, {"DATABASE_DIRECT_URL": "postgresql://u@server/n"})
    database.configuration(environment)
    assert wrong(environment) == ["DATABASE_DIRECT_URL is set and DATABASE_URL is not: expected both, for one database"]


# TLS and other parameters of libpq.


@pytest.fixture
def certificates(tmp_path):
    files = {name: tmp_path / f"{name}.pem" for name in ("root", "client", "key")}
    for file in files.values():
        file.write_text("x")
    return {name: str(file) for name, file in files.items()}


@pytest.mark.parametrize("where", [{"DATABASE_URL": "postgresql://u@h/n"}, {"DB_HOST": "h", "DB_NAME": "n", "DB_USER": "u"}])
def test_tls_goes_to_libpq(env, certificates, where):
    tls = {
        "DB_SSLMODE": "verify-full", "DB_SSLROOTCERT": certificates["root"], "DB_SSLCERT": certificates["client"],
        "DB_SSLKEY": certificates["key"],
    }  # fmt: skip
    environment = env(**where, **tls)
    options = database.configuration(environment)["OPTIONS"]
    assert wrong(environment) == []
    assert {f"DB_{name.upper()}": options[name] for name in ("sslmode", "sslrootcert", "sslcert", "sslkey")} == tls
    assert (
        database.configuration(env(**where, DB_SSLMODE="verify-full", DB_SSLROOTCERT="system"))["OPTIONS"]["sslrootcert"]
        == "system"
    )


@pytest.mark.parametrize(
    ("query", "settings", "said"),
    [
        ("", {"DB_SSLMODE": "verify-full"}, "DB_SSLROOTCERT is not set: expected a file of certificates or `system`"),
        ("?sslmode=verify-ca", {}, "DB_SSLROOTCERT is not set: expected a file of certificates or `system`"),
        ("", {"DB_SSLCERT": __file__}, "DB_SSLCERT and DB_SSLKEY: expected both or neither"),
        ("?sslmode=require", {"DB_SSLMODE": "prefer"}, "DB_SSLMODE and sslmode in the database's address differ"),
        ("?sslmode=yes", {}, "DATABASE_URL: expected sslmode to be one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("?sslmod=require", {}, "DATABASE_URL: a parameter after '?' is none that libpq knows"),
        ("", {"DB_SSLMODE": "on"}, "DB_SSLMODE: expected one of disable, allow, prefer, require, verify-ca, verify-full, got 'on'"),
        ("", {"DB_SSLKEY": "/nowhere"}, "DB_SSLKEY: expected the path of a file that this process can read, got '/nowhere'"),
    ],
)
def test_tls_that_cannot_work_is_refused(env, query, settings, said):
    environment = env(DATABASE_URL=f"postgresql://u:hunter2@h/n{query}", **settings)
    database.configuration(environment)
    assert [text for text in wrong(environment) if text.startswith(said)]
    assert "hunter2" not in str(wrong(environment))


def test_a_password_may_stand_among_the_parameters(env):
    parameters = database.address(env(DATABASE_URL="postgresql:///n?host=/run/pg&user=u&password=a%20b+c"))
    assert (parameters["USER"], parameters["PASSWORD"], parameters["OPTIONS"]) == ("u", "a b+c", {})


@pytest.mark.parametrize("command", ["", "relay_outbox", "migrate"])
def test_a_host_that_is_lost_is_noticed_within_ten_seconds(env, monkeypatch, command):
    monkeypatch.setattr(database, "_command", command)
    options = database.configuration(env(DATABASE_URL="postgresql://u@h/n"))["OPTIONS"]
    assert options["keepalives_idle"] + options["keepalives_interval"] * options["keepalives_count"] <= 10
    assert options["tcp_user_timeout"] <= 10_000


_POOLED_WORKER = {"TASKPULSE_POOLER": "transaction", "DATABASE_DIRECT_URL": "postgresql://u@d/n"}


@pytest.mark.parametrize(
    ("command", "variables", "expected"),
    [
        ("relay_outbox", {}, "-c statement_timeout=60000"),
        ("consume_events", {"TASKPULSE_WORKER_STATEMENT_TIMEOUT_MS": "5"}, "-c statement_timeout=5"),
        ("consume_events", {"TASKPULSE_WORKER_STATEMENT_TIMEOUT_MS": "0"}, None),
        ("consume_events", {"DATABASE_URL": "postgresql://u@h/n?options=-c%20x.y%3D1"}, "-c statement_timeout=60000 -c x.y=1"),
        # A pooler refuses what is set at the start of a session, and gives the session to others.
        ("consume_events", _POOLED_WORKER, None),
        ("relay_outbox", _POOLED_WORKER, "-c statement_timeout=60000"),
        ("migrate", {}, None),
        ("", {}, None),
    ],
)
def test_the_statements_of_workers_have_a_limit(env, monkeypatch, command, variables, expected):
    monkeypatch.setattr(database, "_command", command)
    environment = env(**{"DATABASE_URL": "postgresql://u@h/n"} | variables)
    assert database.configuration(environment)["OPTIONS"].get("options") == expected
