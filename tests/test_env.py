"""Settings are read strictly: each error names the setting and what was expected, shows no secret, and all come at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpulse import database, kinds
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment, Setting, home_directory
from tests.wrong_settings import wrong

SAMPLE = (
    Setting("NAME", kinds.text(), "", "default"),
    Setting("PORT", kinds.integer(1, 65_535), "", "8000"),
    Setting("FLAG", kinds.boolean(), "", "true"),
    Setting("LEVEL", kinds.choice("INFO", "ERROR"), "", "INFO"),
    Setting("HOSTS", kinds.words(), ""),
    Setting("CA_FILE", kinds.file(), ""),
    Setting("KEY", kinds.secret(8), "", secret=True, required=True),
    Setting("TASKPULSE_LOG_LEVEL", kinds.text(), ""),
)


@pytest.fixture
def env(tmp_path):
    def make(declared=SAMPLE, local: dict | None = None, **variables: str) -> Environment:
        if local is not None:
            (tmp_path / "environment.json").write_text(json.dumps(local))
        return Environment(tmp_path, declared, variables)

    return make


def test_everything_that_is_wrong_is_said_at_once(env, tmp_path):
    environment = env(PORT="http", FLAG="yes", CA_FILE=str(tmp_path / "gone"), KEY="short", TASKPULSE_LOG_LEVL="x")
    assert wrong(environment) == [
        "PORT: expected a whole number from 1 to 65535, got 'http'",
        "FLAG: expected true or false, got 'yes'",
        f"CA_FILE: expected the path of a file that this process can read, got '{tmp_path / 'gone'}'",
        "KEY: expected at least 8 characters",
        "TASKPULSE_LOG_LEVL is not a setting: did you mean TASKPULSE_LOG_LEVEL?",
    ]


def test_what_is_required_and_not_set_is_named_where_all_is_needed(env):
    assert wrong(env(), complete=True) == [
        "KEY is not set: expected at least 8 characters (or KEY_FILE, a file that holds it)"
    ]  # fmt: skip
    assert wrong(env(), complete=False) == []
    assert wrong(env(KEY="long enough"), complete=True) == []


def test_a_default_counts_where_nothing_is_set_or_an_empty_value(env):
    for environment in (env(), env(NAME="", PORT="", FLAG="", LEVEL="", HOSTS="", CA_FILE="")):
        assert [environment[name] for name in ("NAME", "PORT", "FLAG", "LEVEL", "HOSTS", "CA_FILE")] == [
            "default", 8000, True, "INFO", (), "",
        ]  # fmt: skip


@pytest.mark.parametrize("value", ["0", "65536", "80a", "8.0", " ", "-1", "8_000", "٨", " 80", "80\n", "9" * 5000])
def test_a_number_out_of_its_range_or_form_is_refused(env, value):
    assert wrong(env(PORT=value)) == [f"PORT: expected a whole number from 1 to 65535, got {value!r}"]


@given(st.integers())
def test_a_number_is_taken_within_its_range_alone(number):
    kind = kinds.integer(-5, 1_000)
    if -5 <= number <= 1_000:
        assert kind.parse(str(number)) == number
    else:
        with pytest.raises(ValueError):  # noqa: PT011 (its text is never shown)
            kind.parse(str(number))


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("FALSE", False), ("0", False)])
def test_booleans(env, value, expected):
    assert env(FLAG=value)["FLAG"] is expected


def test_a_choice_is_one_of_its_words_in_any_case(env):
    assert env(LEVEL="error")["LEVEL"] == "ERROR"
    assert wrong(env(LEVEL="loud")) == ["LEVEL: expected one of INFO, ERROR, got 'loud'"]


def test_a_list_is_split_at_commas(env):
    assert env(HOSTS=" a, b ,,c")["HOSTS"] == ["a", "b", "c"]


def test_control_characters_have_no_place_in_a_text(env):
    assert wrong(env(NAME="a\nb")) == [r"NAME: expected text, got 'a\nb'"]


# Secrets.


def test_a_secret_is_read_from_the_file_that_is_named(env, tmp_path):
    path = tmp_path / "key"
    path.write_text("in a file\n\n")
    assert env(KEY_FILE=str(path))["KEY"] == "in a file\n"
    path.write_bytes(b"of an editor\r\n")
    assert env(KEY_FILE=str(path))["KEY"] == "of an editor"


def test_a_secret_file_that_cannot_serve_is_named(env, tmp_path):
    path = tmp_path / "key"
    assert wrong(env(KEY_FILE=str(path))) == [f"KEY_FILE: {path} cannot be read (FileNotFoundError)"]
    path.write_text("\n")
    assert wrong(env(KEY_FILE=str(path)), complete=True) == [f"KEY_FILE: {path} is empty; expected the value of KEY in it"]
    path.write_bytes(b"\xff\xfe")
    assert wrong(env(KEY_FILE=str(path))) == [f"KEY_FILE: {path} cannot be read (UnicodeDecodeError)"]
    path.write_text("hunter2")
    assert wrong(env(KEY_FILE=str(path))) == ["KEY_FILE: expected at least 8 characters"]


def test_a_secret_and_its_file_exclude_each_other(env, tmp_path):
    (tmp_path / "key").write_text("in the file")
    assert wrong(env(KEY="in the environment", KEY_FILE=str(tmp_path / "key")), complete=True) == [
        "KEY and KEY_FILE are both set: expected one of them"
    ]


@pytest.mark.parametrize("setting", [setting for setting in DECLARED if setting.secret], ids=lambda setting: setting.name)
def test_no_secret_is_ever_shown(env, tmp_path, setting):
    value = "hunter2 \0 is wrong for all of them"
    (tmp_path / "secret").write_text(value)
    for variables in ({setting.name: value}, {f"{setting.name}_FILE": str(tmp_path / "secret")}):
        (name,) = variables
        (said,) = wrong(env((setting,), **variables))
        assert said == f"{name}: expected {setting.kind.expected}"


# Names.


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("TASKPULSE_RELAY_BACH", "TASKPULSE_RELAY_BATCH"),
        ("TASKPULSE_KAFKA_TOPIC", "KAFKA_TOPIC"),
        ("taskpulse_home", "TASKPULSE_HOME"),
        ("TASKPULSE_SECRET_KEY_FILE", "SECRET_KEY_FILE"),
    ],
)
def test_a_misspelt_name_is_refused_and_the_nearest_offered(env, name, near):
    assert wrong(env(DECLARED, **{name: ""})) == [f"{name} is not a setting: did you mean {near}?"]


def test_a_name_like_no_other_is_refused_too(env):
    assert wrong(env(DECLARED, TASKPULSE_XYZZY="1")) == ["TASKPULSE_XYZZY is not a setting; README.md lists all of them"]


def test_what_kubernetes_adds_for_a_service_is_no_setting(env):
    links = {
        "TASKPULSE_SERVICE_HOST": "10.0.0.1", "TASKPULSE_SERVICE_PORT": "80", "TASKPULSE_PORT": "tcp://10.0.0.1:80",
        "TASKPULSE_WEB_SERVICE_PORT_HTTP": "80", "TASKPULSE_WEB_PORT_80_TCP": "tcp://10.0.0.1:80",
        "TASKPULSE_WEB_PORT_80_TCP_ADDR": "10.0.0.1", "TASKPULSE_WEB_PORT_80_TCP_PROTO": "tcp",
    }  # fmt: skip
    assert wrong(env(DECLARED, **links)) == []
    assert env(DECLARED, TASKPULSE_WORKER_PORT="tcp://10.0.0.7:9464")["TASKPULSE_WORKER_PORT"] == 9464
    assert wrong(env(DECLARED, TASKPULSE_PORT="8000")) == ["TASKPULSE_PORT is not a setting: did you mean PORT?"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("RELAY_BATCH", "TASKPULSE_RELAY_BATCH"),
        ("DB_SSL_MODE", "DB_SSLMODE"),
        ("SECRET_KEY_FALLBACK", "SECRET_KEY_FALLBACKS"),
        ("OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", None),
        ("OTEL_EXPORTER_OTLP_HEADERS", None),
        ("KAFKA_HEAP_OPTS", None),
        ("HOME", None),
        ("KAFKA_TOPIC", None),
        ("DATABASE_URL_FILE", None),
    ],
)
def test_a_name_without_our_prefix_that_looks_like_a_setting_is_noticed(env, name, near):
    assert env(DECLARED, **{name: ""}).misspelt() == ({name: near} if near else {})


def test_each_setting_is_declared_once_and_its_default_is_of_its_kind(env):
    names = [setting.name for setting in DECLARED]
    assert len(names) == len(set(names))
    for setting in DECLARED:
        assert not setting.default or not setting.secret, f"{setting.name}: no secret has a default"
        assert not setting.default or setting.kind.parse(setting.default) is not None


# The installation's file.


def test_the_installations_file_counts_only_where_the_environment_names_nothing(env):
    local = {"SECRET_KEY": "local", "DATABASE_URL": "postgresql://postgres@/embedded?host=/run"}
    assert env(DECLARED, local)["SECRET_KEY"] == "local"
    assert env(DECLARED, local, SECRET_KEY="named")["SECRET_KEY"] == "named"
    assert database.address(env(DECLARED, local))["NAME"] == "embedded"
    assert database.address(env(DECLARED, local, DATABASE_URL="postgresql://u@h/named"))["NAME"] == "named"
    assert database.address(env(DECLARED, local, DB_HOST="h", DB_NAME="named", DB_USER="u"))["NAME"] == "named"
    assert not database.is_named(env(DECLARED, local))
    assert env(DECLARED, local).given("DATABASE_URL")


@pytest.mark.parametrize("content", ['{"SECRET_KEY": "hunter2"', "[]", '{"SECRET_KEY": 2}'])
def test_an_installations_file_of_another_form_is_named(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    (said,) = wrong(Environment(tmp_path, SAMPLE, {}))
    assert said.startswith(f"{tmp_path / 'environment.json'}: cannot be read (")
    assert said.endswith("expected a JSON object of strings")
    assert "hunter2" not in said


def test_home_is_beside_the_code_unless_it_is_named(tmp_path):
    assert home_directory({}).name == ".taskpulse"
    assert (home_directory({}).parent / "manage.py").exists()
    assert home_directory({"TASKPULSE_HOME": str(tmp_path)}) == tmp_path.resolve()
