"""`manage.py migrate` beside a running version: one at a time, and nobody waits behind it."""

import io
import subprocess
import sys
import threading
import time
import uuid
from importlib import import_module

import psycopg
import pytest
from django.apps import AppConfig
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection, migrations, models
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings
from psycopg import sql

from tests.running_up import ROOT, wait_until
from tests.test_capture import wait_for_lock


class Next(AppConfig):
    """The migrations of a version to come (tests/next_version)."""

    name = "tests.next_version"
    label = "next_version"
    path = str(ROOT / "tests" / "next_version")


@pytest.fixture
def next_version(committed_db):
    installed = [*settings.INSTALLED_APPS, "tests.test_migrate.Next"]
    with override_settings(INSTALLED_APPS=installed, MIGRATE_LOCK_TIMEOUT_MS=300):
        yield committed_db


def migrate(*arguments: str) -> str:
    output = io.StringIO()
    call_command("migrate", *arguments, interactive=False, stdout=output)
    return output.getvalue()


def columns(url: str) -> set[str]:
    with psycopg.connect(url) as session:
        found = session.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'tasks_task'")
        return {name for (name,) in found}


def test_two_at_once_make_a_database_once(postgres_server, monkeypatch):
    """As two one-shots do that start at the same time."""
    name = f"taskpulse_migrate_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            monkeypatch.setenv("DATABASE_URL", postgres_server.replace("/postgres?", f"/{name}?"))
            command = [sys.executable, "manage.py", "migrate", "--noinput"]
            both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
            outputs = [process.communicate(timeout=60)[0] for process in both]
            assert [process.returncode for process in both] == [0, 0]
            assert sorted("Applying tasks.0001_initial" in output for output in outputs) == [False, True]
            assert sum("No migrations to apply" in output for output in outputs) == 1
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_it_gives_way_to_who_reads_the_table_and_comes_again(next_version):
    reader = psycopg.connect(next_version)
    reader.execute("SELECT count(*) FROM tasks_task")  # and leaves its transaction open
    outputs = []

    def run():
        try:
            outputs.append(migrate("next_version", "0001"))
        finally:
            connection.close()

    migration = threading.Thread(target=run)
    migration.start()
    wait_for_lock(next_version)
    # Another one's read that comes now waits behind the migration, no longer than the migration waits.
    with psycopg.connect(next_version) as other:
        began = time.monotonic()
        other.execute("SELECT count(*) FROM tasks_task")
        assert time.monotonic() - began < 5
    assert "colour" not in columns(next_version)
    reader.close()
    migration.join(30)
    assert "a table is in use" in outputs[0]
    assert "colour" in columns(next_version)


def test_it_gives_up_in_the_end_and_leaves_all_as_it_was(next_version):
    with psycopg.connect(next_version) as reader, override_settings(MIGRATE_PATIENCE_SECONDS=0):
        reader.execute("SELECT count(*) FROM tasks_task")
        with pytest.raises(CommandError, match="run migrate again later"):
            migrate("next_version", "0001")
    assert "colour" not in columns(next_version)
    # What it set for itself is not left to whoever uses the connection next, and the lock is free.
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("0", "0")
    migrate("next_version", "0001")


def test_an_index_made_concurrently_may_wait_for_older_transactions(next_version):
    migrate("next_version", "0001")
    writer = psycopg.connect(next_version)
    writer.execute("UPDATE tasks_task SET title = title WHERE false")  # and leaves its transaction open
    migration = threading.Thread(target=lambda: (migrate("next_version", "0002"), connection.close()))
    migration.start()
    wait_for_lock(next_version)
    time.sleep(0.6)
    writer.close()
    migration.join(30)
    with psycopg.connect(next_version) as session:
        valid = session.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'next_title'::regclass").fetchone()
    assert valid == (True,)


def test_another_that_is_at_work_is_waited_for(next_version):
    from tasks.active_lock import ActiveLock

    lock = ActiveLock("migrate")
    assert lock.acquire()
    outputs = []
    migration = threading.Thread(target=lambda: (outputs.append(migrate("next_version", "0001")), connection.close()))
    migration.start()
    time.sleep(0.7)
    assert "colour" not in columns(next_version)
    assert "Planned operations" in migrate("--plan")  # asks only, and waits for nobody
    lock.release()
    migration.join(30)
    wait_until(lambda: outputs, 1, "it has ended")
    assert "another migrate is at work" in outputs[0]
    assert "colour" in columns(next_version)


def test_a_migration_is_applied_and_noted_or_neither(next_version, monkeypatch):
    """Its session ends in between, where it has a foreign key to make at its end."""
    first = import_module("tests.next_version.migrations.0001_colour")
    thing = migrations.CreateModel(
        "thing", [("id", models.BigAutoField(primary_key=True)), ("task", models.ForeignKey("tasks.task", models.CASCADE))]
    )
    monkeypatch.setattr(first.Migration, "operations", [*first.Migration.operations, thing])

    def tables() -> bool:
        return "next_version_thing" in connection.introspection.table_names()

    with monkeypatch.context() as patch:
        patch.setattr(MigrationRecorder, "record_applied", fail)
        with pytest.raises(OperationalError):
            migrate("next_version", "0001")
    assert not tables()
    assert "colour" not in columns(next_version)
    migrate("next_version", "0001")
    assert tables()


def fail(*_):
    raise OperationalError("the session has ended")
