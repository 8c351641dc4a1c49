"""docker-compose.yml, read: what must hold for each service, whoever adds one. `make compose-test` runs it."""

import re
from pathlib import Path

import pytest
import yaml

from taskpulse.declarations import DECLARED

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
ROLES = {name for name, service in SERVICES.items() if "build" in service}
ONE_SHOTS = {name for name, service in SERVICES.items() if service["restart"].startswith("on-failure")}
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line and not line.startswith("#")
)

# What most do without. A key until now is a secret, and only there while it hands over.
MAY_BE_EMPTY = {
    "CSRF_TRUSTED_ORIGINS", "TASKPULSE_TRUSTED_PROXIES", "AUDIT_WITNESSES", "AUDIT_PREVIOUS_SIGNING_KEY",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}  # fmt: skip


def test_it_runs_each_role_and_prepares_for_them_once():
    assert {"web", "relay", "consumer", "migrate"} <= ROLES
    assert {"kafka-topics", "migrate", "database-roles"} <= ONE_SHOTS
    assert {name: SERVICES[name]["deploy"]["replicas"] for name in ("relay", "consumer")} == {"relay": 2, "consumer": 2}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_bounded(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) >= {"cpus", "memory"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["restart"] in {"unless-stopped", "on-failure:3"}


@pytest.mark.parametrize("name", sorted(ROLES | {"postgres"}))
def test_the_root_of_what_keeps_its_data_elsewhere_is_read_only(name):
    assert SERVICES[name]["read_only"] is True


@pytest.mark.parametrize("name", sorted(ROLES))
def test_an_image_of_our_name_is_never_fetched_from_somewhere(name):
    assert SERVICES[name]["pull_policy"] == "never"


@pytest.mark.parametrize("name", sorted(ROLES - ONE_SHOTS))
def test_a_role_waits_until_the_one_shots_before_it_have_succeeded(name):
    conditions = {needed: how["condition"] for needed, how in SERVICES[name]["depends_on"].items()}
    assert conditions
    assert set(conditions) <= ONE_SHOTS
    assert set(conditions.values()) == {"service_completed_successfully"}


@pytest.mark.parametrize("name", ["postgres", "kafka"])
def test_a_store_says_how_it_is_and_keeps_its_data_in_a_named_volume(name):
    assert SERVICES[name]["healthcheck"]["test"]
    assert [volume.split(":")[0] for volume in SERVICES[name]["volumes"]] == [name]


def test_only_the_web_role_can_be_reached_and_only_from_this_host():
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "web": ["${PUBLISHED_ADDRESS:-127.0.0.1}:${PUBLISHED_PORT:-8000}:8000"]
    }
    assert all("stores" in service["networks"] for service in SERVICES.values())
    assert yaml.safe_load(TEXT)["networks"]["stores"] == {"internal": True}


def test_no_secret_has_a_default():
    """A variable is either required, by name, or it is public and the example file gives its default."""
    secrets = {name for name, value in EXAMPLE.items() if not value} - MAY_BE_EMPTY
    used = re.findall(r"(?<!\$)\$\{(\w+)(:[-?])?([^}]*)\}", TEXT)
    required = {name for name, operator, _ in used if operator == ":?"}
    assert required == secrets
    for name, operator, rest in used:
        if name in secrets:
            assert operator == ":?", name
            assert ".env" in rest
        elif name in EXAMPLE:
            assert (operator, rest) == (":-", EXAMPLE[name]), name
    assert {name for name, _, _ in used} - set(EXAMPLE) == {"TASKPULSE_IMAGE"}


@pytest.mark.parametrize("name", sorted(ROLES))
def test_each_role_is_given_settings_that_there_are(name):
    known = {setting.name for setting in DECLARED}
    assert set(SERVICES[name]["environment"]) <= known


def test_nothing_that_runs_on_signs_in_as_the_owner():
    owner = SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    users = {name: SERVICES[name]["environment"]["DB_USER"] for name in ROLES}
    assert {name for name, user in users.items() if user == owner} == ONE_SHOTS & ROLES


@pytest.mark.parametrize("key", ["AUDIT_SIGNING_KEY", "AUDIT_PREVIOUS_SIGNING_KEY"])
def test_the_relay_alone_has_the_signing_key(key):
    assert [name for name, service in SERVICES.items() if key in service.get("environment", ())] == ["relay"]


def test_the_broker_is_the_one_that_the_suite_runs_on():
    images = {SERVICES[name]["image"] for name in ("kafka", "kafka-topics")}
    assert len(images) == 1
    assert f"image: {images.pop()}\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
