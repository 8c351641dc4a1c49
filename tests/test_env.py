"""Settings are read strictly: each error names the setting and what was expected, and shows no secret."""

import json

import pytest
from django.core.exceptions import ImproperlyConfigured

from taskpulse.env import Environment, home_directory


@pytest.fixture
def env(tmp_path):
    def make(local: dict | None = None, **variables: str) -> Environment:
        if local is not None:
            (tmp_path / "environment.json").write_text(json.dumps(local))
        return Environment(tmp_path, variables)

    return make


def test_what_is_not_set_and_has_no_default_is_named(env):
    with pytest.raises(ImproperlyConfigured, match=r"^SECRET_KEY is not set$"):
        env().secret("SECRET_KEY")
    assert env().text("NAME", "default") == "default"
    assert env(NAME="").text("NAME", "default") == "default"


@pytest.mark.parametrize("value", ["0", "65536", "80a", "8.0", " ", "-1"])
def test_a_number_out_of_its_range_is_refused(env, value):
    with pytest.raises(ImproperlyConfigured, match=rf"^PORT: expected a whole number from 1 to 65535, got '{value}'$"):
        env(PORT=value).integer("PORT", 8000, 1, 65_535)


def test_numbers_at_the_ends_of_the_range_are_taken(env):
    assert env(PORT="1").integer("PORT", 8000, 1, 65_535) == 1
    assert env(PORT="65535").integer("PORT", 8000, 1, 65_535) == 65_535
    assert env().integer("PORT", 8000, 1, 65_535) == 8000


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("FALSE", False), ("0", False)])
def test_booleans(env, value, expected):
    assert env(FLAG=value).boolean("FLAG", not expected) is expected


def test_a_boolean_that_is_none_is_refused(env):
    with pytest.raises(ImproperlyConfigured, match=r"^FLAG: expected true or false, got 'yes'$"):
        env(FLAG="yes").boolean("FLAG", False)


def test_a_list_is_split_at_commas(env):
    assert env(HOSTS=" a, b ,,c").words("HOSTS") == ["a", "b", "c"]
    assert env().words("HOSTS") == []


def test_a_secret_is_read_from_the_file_that_is_named(env, tmp_path):
    (tmp_path / "key").write_text("in a file\n\n")
    path = str(tmp_path / "key")
    assert env(SECRET_KEY_FILE=path).secret("SECRET_KEY") == "in a file\n"
    assert env(SECRET_KEY_FILE=path, SECRET_KEY="itself").secret("SECRET_KEY") == "itself"
    with pytest.raises(ImproperlyConfigured, match=r"^SECRET_KEY_FILE: cannot be read \(FileNotFoundError\)$"):
        env(SECRET_KEY_FILE=f"{path}.gone").secret("SECRET_KEY")


def test_the_installations_file_counts_only_where_the_environment_names_nothing(env):
    local = {"SECRET_KEY": "local", "DATABASE_URL": "postgresql://postgres@/embedded?host=/run"}
    assert env(local).secret("SECRET_KEY") == "local"
    assert env(local, SECRET_KEY="named").secret("SECRET_KEY") == "named"
    assert env(local).database()["NAME"] == "embedded"
    assert env(local, DATABASE_URL="postgresql://u@h/named").database()["NAME"] == "named"
    assert env(local, DB_HOST="h", DB_NAME="named", DB_USER="u").database()["NAME"] == "named"
    assert not env(local).named("DATABASE_URL")
    assert env(local).given("DATABASE_URL")


def test_an_installations_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "environment.json").write_text('{"SECRET_KEY": "hunter2"')
    with pytest.raises(ImproperlyConfigured) as caught:
        Environment(tmp_path, {})
    assert str(caught.value).startswith(f"{tmp_path / 'environment.json'}: ")
    assert "hunter2" not in str(caught.value)
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(ImproperlyConfigured, match="expected a JSON object"):
        Environment(tmp_path, {})


def test_a_database_url_is_taken_apart(env):
    assert env(DATABASE_URL="postgresql://ana:p%40ss@db.example:5433/task%20pulse?sslmode=require").database() == {
        "HOST": "db.example",
        "PORT": "5433",
        "NAME": "task pulse",
        "USER": "ana",
        "PASSWORD": "p@ss",
        "OPTIONS": {"sslmode": "require"},
    }
    assert env(DATABASE_URL="postgres://postgres@/x?host=%2Frun%2Fpg").database()["HOST"] == "/run/pg"


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/x", "postgresql://u:hunter2@h/", "postgresql://u:hunter2@h:port/x", "x"])
def test_a_wrong_database_url_is_refused_without_its_password(env, url):
    with pytest.raises(ImproperlyConfigured) as caught:
        env(DATABASE_URL=url).database()
    assert str(caught.value).startswith("DATABASE_URL: expected postgresql://USER:PASSWORD@HOST:PORT/NAME")
    assert "hunter2" not in str(caught.value)


def test_a_database_by_parts(env):
    assert env(DB_HOST="h", DB_NAME="n", DB_USER="u", DB_PASSWORD="p").database() == {
        "HOST": "h", "PORT": "5432", "NAME": "n", "USER": "u", "PASSWORD": "p",
    }  # fmt: skip
    with pytest.raises(ImproperlyConfigured, match=r"^DB_NAME is not set$"):
        env(DB_HOST="h").database()
    with pytest.raises(ImproperlyConfigured, match=r"^no database is named: set DATABASE_URL"):
        env().database()


def test_home_is_beside_the_code_unless_it_is_named(tmp_path):
    assert home_directory({}).name == ".taskpulse"
    assert (home_directory({}).parent / "manage.py").exists()
    assert home_directory({"TASKPULSE_HOME": str(tmp_path)}) == tmp_path.resolve()
