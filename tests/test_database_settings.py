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
    agreeing, differing = env(**both), env(**both | {"DB_NAME": "other"})
    assert database.address(agreeing)["HOST"] == "h"
    assert wrong(agreeing) == []
    database.address(differing)
    assert wrong(differing) == ["DATABASE_URL and DB_HOST name different databases: expected one of them"]
