"""Settings that are unsafe together: each numbered check speaks where it should, and is silent where it should be."""

import os
import subprocess
import sys
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
from django.core.checks import Tags, run_checks
from django.db import connection

from taskpulse import checks
from tests.running_up import ROOT

KEY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
# Everything of a deployment that is as it should be.
SAFE = {
    "TASKPULSE_MODE": "production",
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": "tasks.example.com",
    "CSRF_TRUSTED_ORIGINS": "https://tasks.example.com",
    "TASKPULSE_HTTPS": "true",
    "TASKPULSE_TRUSTED_PROXIES": "10.0.0.0/8,2001:db8::/32",
    "DATABASE_URL": "postgresql://taskpulse:hunter2@db.example.com/taskpulse",
    "DB_SSLMODE": "verify-full",
    "DB_SSLROOTCERT": "system",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka.example.com:9093",
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "taskpulse",
    "KAFKA_SASL_PASSWORD": "hunter2",
    "KAFKA_REPLICATION_FACTOR": "3",
}


def manage(home, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """With nothing of ours from the outer environment."""
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=inherited | {"TASKPULSE_HOME": str(home), **variables},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_deployment_as_it_should_be_is_clean(tmp_path):
    result = manage(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING", **SAFE)
    assert (result.returncode, result.stderr) == (0, "")
    assert "no issues" in result.stdout


@pytest.mark.parametrize("command", ["relay_outbox", "consume_events", "web"])
def test_no_role_starts_with_unsafe_settings(tmp_path, command):
    unsafe = SAFE | {"DB_SSLMODE": "disable", "DB_SSLROOTCERT": "", "SECRET_KEY": "short"}
    web = ("-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", "127.0.0.1:0", "taskpulse.wsgi")
    result = manage(tmp_path, *(web if command == "web" else ("manage.py", command)), **unsafe)
    assert result.returncode == 1
    for expected in ("taskpulse.E006", "taskpulse.E007"):
        assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert "short\n" not in result.stderr


def test_a_check_that_is_known_and_accepted_is_silent(tmp_path):
    accepted = SAFE | {"DB_SSLMODE": "disable", "DB_SSLROOTCERT": "", "TASKPULSE_SILENCED_CHECKS": "taskpulse.E006,taskpulse.W001"}
    assert manage(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING", **accepted).returncode == 0


def test_up_does_not_embed_in_production(tmp_path):
    result = manage(tmp_path, "manage.py", "up", TASKPULSE_MODE="production")
    assert result.returncode == 1
    assert "TASKPULSE_MODE is production: expected DATABASE_URL (or DB_HOST) and KAFKA_BOOTSTRAP_SERVERS" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def safe(monkeypatch) -> SimpleNamespace:
    """The settings of SAFE, as far as the checks look at them."""
    settings = SimpleNamespace(
        PRODUCTION=True, DEBUG=False, DATABASE_IS_EMBEDDED=False, HTTPS=True, MISSPELT={},
        SECRET_KEY=KEY, SECRET_KEY_FALLBACKS=(), ALLOWED_HOSTS=["tasks.example.com"],
        CSRF_TRUSTED_ORIGINS=["https://tasks.example.com"], TRUSTED_PROXIES=[ip_network("10.0.0.0/8")],
        KAFKA_BOOTSTRAP_SERVERS="kafka.example.com:9093", KAFKA_REPLICATION_FACTOR=3,
        KAFKA_SECURITY={"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"},
        DATABASES=database(), PROCESS_COMMAND="", AUDIT_SIGNING_KEY=None, AUDIT_PREVIOUS_SIGNING_KEY=None,
        AUDIT_LOG_ORIGIN="tasks.example.com/audit", AUDIT_LOG_PUBLIC=True, AUDIT_WITNESSES=["w"],
        KAFKA_TOPIC="events", KAFKA_CHECKPOINT_TOPIC="checkpoints", WEB_ROLE="w", WORKER_ROLE="c", AUDITOR_ROLE="a",
        HSTS_SECONDS=3600, HSTS_SUBDOMAINS=True, HSTS_PRELOAD=False,
    )  # fmt: skip
    monkeypatch.setattr(checks, "settings", settings)
    return settings


def database(host: str = "db.example.com", password: str = "hunter2", sslmode: str | None = "verify-full") -> dict:
    return {"default": {"HOST": host, "PASSWORD": password, "OPTIONS": {"sslmode": sslmode} if sslmode else {}}}


def found() -> set[str]:
    everything = run_checks(tags=["taskpulse"], include_deployment_checks=True)
    assert "hunter2" not in str(everything)
    return {message.id for message in everything}


def kafka(protocol: str, mechanism: str = "", url: str = "") -> dict:
    properties = {"security.protocol": protocol, "sasl.mechanism": mechanism, "sasl.oauthbearer.token.endpoint.url": url}
    return {"KAFKA_SECURITY": {name: value for name, value in properties.items() if value}}


EVERYBODY = [ip_network("10.0.0.0/8"), ip_network("::/0")]
LAN = {"HTTPS": False, "TRUSTED_PROXIES": [], "ALLOWED_HOSTS": ["web", "10.0.0.7", "[fd00::7]", "tasks.internal", "localhost"]}
LOOPBACK = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092,[::1]:9092,127.0.0.2:9092"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"DEBUG": True}, {"taskpulse.E001"}),
        ({"DEBUG": True, "PRODUCTION": False}, {"taskpulse.E001", "taskpulse.W007", "taskpulse.W008"}),
        ({"DEBUG": True, "PRODUCTION": False, "ALLOWED_HOSTS": ["localhost", "[::1]", "127.0.0.1"]}, {"taskpulse.W008"}),
        ({"DATABASE_IS_EMBEDDED": True}, {"taskpulse.E002"}),
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, {"taskpulse.E003"}),
        (kafka("SASL_PLAINTEXT", "PLAIN"), {"taskpulse.E005"}),
        (kafka("SASL_PLAINTEXT", "OAUTHBEARER"), {"taskpulse.E005"}),
        (kafka("SASL_PLAINTEXT", "SCRAM-SHA-256"), {"taskpulse.W002"}),
        (kafka("SASL_PLAINTEXT", "PLAIN") | LOOPBACK, set()),
        (kafka("SASL_PLAINTEXT", "PLAIN") | {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1, b:2"}, {"taskpulse.E005"}),
        (kafka("SASL_SSL", "OAUTHBEARER", "http://issuer:80/token"), {"taskpulse.E011"}),
        (kafka("SASL_SSL", "OAUTHBEARER", "http://issuer/token"), {"taskpulse.E011"}),
        (kafka("SASL_SSL", "OAUTHBEARER", "http://localhost/token"), set()),
        (kafka("SASL_SSL", "OAUTHBEARER", "http://127.0.0.1:80/token"), set()),
        (kafka("SASL_SSL", "OAUTHBEARER", "https://issuer/token"), set()),
        ({"DATABASES": database(sslmode="disable")}, {"taskpulse.E006", "taskpulse.W001"}),
        ({"DATABASES": database(sslmode="allow")}, {"taskpulse.E006", "taskpulse.W001"}),
        ({"DATABASES": database("localhost", sslmode="allow")}, set()),
        ({"DATABASES": database(sslmode="disable", password="")}, {"taskpulse.W001"}),
        ({"DATABASES": database("localhost", sslmode="disable")}, set()),
        ({"DATABASES": database("/run/postgresql", sslmode="disable")}, set()),
        ({"DATABASES": database(sslmode=None)}, {"taskpulse.W001"}),
        ({"DATABASES": database(sslmode="prefer")}, {"taskpulse.W001"}),
        ({"DATABASES": database(sslmode="require")}, {"taskpulse.W001"}),
        ({"SECRET_KEY": "x" * 80}, {"taskpulse.E007"}),
        ({"SECRET_KEY": KEY[:49]}, {"taskpulse.E007"}),
        ({"SECRET_KEY_FALLBACKS": [KEY, "short"]}, {"taskpulse.E007"}),
        ({"HTTPS": False}, {"taskpulse.E008"}),
        (LAN, set()),
        (LAN | {"ALLOWED_HOSTS": ["93.184.216.34"]}, {"taskpulse.E008"}),
        (LAN | {"ALLOWED_HOSTS": [".example.com"]}, {"taskpulse.E008"}),
        ({"TRUSTED_PROXIES": []}, {"taskpulse.E009"}),
        ({"TRUSTED_PROXIES": EVERYBODY}, {"taskpulse.E010"}),
        ({"AUDIT_SIGNING_KEY": "hunter2"}, {"taskpulse.E012"}),
        ({"AUDIT_PREVIOUS_SIGNING_KEY": "hunter2", "PROCESS_COMMAND": "consume_events"}, {"taskpulse.E012"}),
        ({"AUDIT_SIGNING_KEY": "hunter2", "PROCESS_COMMAND": "relay_outbox"}, set()),
        ({"KAFKA_CHECKPOINT_TOPIC": "events"}, {"taskpulse.E013"}),
        ({"AUDIT_LOG_ORIGIN": "taskpulse/audit"}, {"taskpulse.W010"}),
        ({"AUDIT_LOG_ORIGIN": "taskpulse/audit", "AUDIT_WITNESSES": []}, {"taskpulse.W010"}),
        ({"AUDIT_LOG_ORIGIN": "taskpulse/audit", "AUDIT_LOG_PUBLIC": False}, {"taskpulse.W010"}),
        ({"AUDIT_LOG_ORIGIN": "taskpulse/audit", "AUDIT_LOG_PUBLIC": False, "AUDIT_WITNESSES": []}, set()),
        ({"WORKER_ROLE": "w"}, {"taskpulse.E014"}),
        ({"AUDITOR_ROLE": "c"}, {"taskpulse.E014"}),
        ({"HSTS_PRELOAD": True}, {"taskpulse.W009"}),
        ({"HSTS_PRELOAD": True, "HSTS_SECONDS": 31_536_000, "HSTS_SUBDOMAINS": False}, {"taskpulse.W009"}),
        ({"HSTS_PRELOAD": True, "HSTS_SECONDS": 31_536_000}, set()),
        ({"MISSPELT": {"KAFKA_TOPICS": "KAFKA_TOPIC"}}, {"taskpulse.W003"}),
        ({"KAFKA_REPLICATION_FACTOR": 1}, {"taskpulse.W004"}),
        ({"ALLOWED_HOSTS": ["*"]}, {"taskpulse.W005"}),
        ({"CSRF_TRUSTED_ORIGINS": ["http://tasks.example.com"]}, {"taskpulse.W006"}),
    ],
)
def test_each_check(safe, changes, expected):
    for name, value in changes.items():
        setattr(safe, name, value)
    assert found() == expected
    assert {message.id for message in checks.errors()} == {name for name in expected if ".E" in name} - {"taskpulse.E003"}


def test_an_old_postgresql_is_refused_before_it_is_migrated(db, monkeypatch):
    assert not run_checks(tags=[Tags.database], databases=["default"])
    monkeypatch.setattr(checks, "POSTGRESQL", 19)
    (message,) = run_checks(tags=[Tags.database], databases=["default"])
    assert (message.id, connection.pg_version // 10_000) == ("taskpulse.E004", 18)


@pytest.mark.parametrize("sslmode", [None, "prefer"])
def test_the_default_of_libpq_is_told_for_what_it_is(safe, sslmode):
    safe.DATABASES = database(sslmode=sslmode)
    (message,) = checks.check_deployment(None)
    assert "without an offer of TLS from there the connection goes on without it (sslmode is prefer)" in message.msg
