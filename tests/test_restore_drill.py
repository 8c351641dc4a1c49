"""`manage.py restore_drill`: a dump is restored beside the real database, verified, and held against the topic."""

import io
import json
import subprocess

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from psycopg import sql

from audit import scratch, successor
from audit.checkpoint import Checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.models import Entry
from audit.signed_note import Note
from audit.verification import spans
from taskpulse.embedded import postgres
from tasks.models import Task
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, grow


@pytest.fixture
def log(committed_db, topic) -> Log:
    log = Log()
    grow(5)
    log.sign()
    return log


def publish(log: Log, *checkpoints: Checkpoint) -> None:
    notes = [bytes(Note(one.text, (log.key.sign(one.text),))) for one in checkpoints or log.held]
    CheckpointTopic().publish(log.key.verifier.name, notes)


@pytest.fixture
def dump(tmp_path, committed_db):
    """Makes a dump of the test's database as it is now."""

    def make(*options: str):
        path = tmp_path / "taskpulse.dump"
        subprocess.run(
            [postgres.binaries() / "pg_dump", *(options or ["-Fc"]), "--file", path, "--dbname", committed_db], check=True
        )
        connection.close()
        return path

    return make


def drill(log: Log, dump, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    out = io.StringIO()
    try:
        call_command("restore_drill", str(dump), "--key", str(log.key.verifier), "--jobs", "1", *arguments, stdout=out)
    except SystemExit as stop:
        return stop.code, out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def scratch_databases() -> list[str]:
    return [name for (name,) in execute("SELECT datname FROM pg_database WHERE datname LIKE %s", f"{scratch.PREFIX}%")]


def test_a_sound_dump_that_lost_nothing_leaves_no_trace(log, dump):
    publish(log)
    before = connection.settings_dict["NAME"]
    code, said = drill(log, dump())
    assert code == 0, said
    assert "SOUND: 5 entries, pinned from outside up to entry 5" in said
    assert "log taskpulse/audit: 5 entries, the last recorded at 20" in said
    assert "lost since: nothing that was signed for, the newest checkpoint held outside is of 5 entries" in said
    assert connection.settings_dict["NAME"] == before
    assert Entry.objects.count() == 5
    assert scratch_databases() == []


@pytest.mark.parametrize("form", ["-Fd", "-Ft"])
def test_what_was_lost_since_is_told_by_the_topic(log, dump, form):
    Task.objects.create(title="waits in the outbox")
    old = dump(form)
    grow(3)
    log.sign()
    publish(log)
    grow(2)  # nobody outside knows of these
    code, said = drill(log, old, "--json")
    assert code == 0
    found = json.loads(said)
    assert (found["result"], found["entries"], found["pinned_until"], found["waiting"]) == ("sound", 5, 5, 1)
    assert found["logs"] == [
        {
            "origin": "taskpulse/audit", "first_seq": 1, "size": 5, "signed": 5, "outside": 9, "lost": 4,
            "recorded_until": Entry.objects.get(seq=5).processed_at.isoformat(),
        }
    ]  # fmt: skip
    assert "lost since: 4 entries, 6 to 9, by the newest checkpoint held outside" in drill(log, old)[1]


def test_a_checkpoint_that_was_signed_after_the_dump_of_what_is_in_it_is_none_of_its_faults(log, dump):
    """Nothing was recorded between: on a quiet day each dump has entries that are signed for a moment later."""
    grow(2)
    old = dump()
    log.sign()
    publish(log)
    code, said = drill(log, old)
    assert (code, "SOUND: 7 entries, pinned from outside up to entry 7" in said) == (0, True), said
    publish(log, Checkpoint("taskpulse/audit", 6, bytes(32)))
    assert drill(log, old)[0] == 1


def test_a_loss_that_the_dump_tells_of(log, dump):
    promised = Checkpoint("taskpulse/audit", 9, bytes(32))
    successor.open_successor(None, promised)
    log.sign(log.key.named("taskpulse/audit/6"))
    publish(log, log.held[0], promised)
    old = dump()
    code, said = drill(log, old)
    assert (code, "LOST: taskpulse/audit: entries 6 to 9" in said) == (3, True), said
    assert drill(log, old, "--known-loss", "6")[0] == 0


def test_a_log_that_was_begun_since_is_lost(log, dump):
    publish(log, *log.held, Checkpoint("another", 7, bytes(32)))
    old = dump()
    assert "log another" not in drill(log, old)[1]  # not signed by its key
    key = type(log.key).generate("another")
    checkpoint = Checkpoint("another", 7, bytes(32))
    CheckpointTopic().publish("another", [bytes(Note(checkpoint.text, (key.sign(checkpoint.text),)))])
    code, said = drill(log, old, "--key", str(key.verifier))
    assert code == 0
    assert "log another: begun after the dump, 7 entries were signed for: all of them are lost" in said


def test_a_topic_without_checkpoints_and_one_that_was_not_asked_are_not_compared(log, dump):
    old = dump()
    for code, said in (drill(log, old), drill(log, old, "--no-topic")):
        assert code == 0
        assert "lost since: not compared, there is no checkpoint held outside the database" in said
        assert "outside      not compared" in said


def test_a_dump_that_was_tampered_with_is_found_and_the_entry_named(log, dump):
    publish(log)
    disable_triggers()
    execute("""UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,task,title}', '"other"') WHERE seq = 3""")
    code, said = drill(log, dump(), "--json")
    assert code == 1
    assert json.loads(said)["first_bad"]["seq"] == 3
    assert scratch_databases() == []


def test_a_dump_of_another_history_than_the_topic_has_is_found(log, dump):
    publish(log, Checkpoint("taskpulse/audit", 4, bytes(32)))
    code, said = drill(log, dump())
    assert code == 1
    assert "TAMPERED" in said


def test_a_connection_that_ends_in_mid_verification_is_no_tampering(log, dump, monkeypatch):
    monkeypatch.setattr(spans, "look", lambda session, *_: session.execute("SELECT pg_terminate_backend(pg_backend_pid())"))
    code, said = drill(log, dump(), "--no-topic")
    assert (code, "could not be checked: terminating connection due to administrator command" in said) == (2, True), said
    assert scratch_databases() == []


def test_what_is_no_dump_is_said_and_leaves_nothing(log, dump, tmp_path):
    plain = dump("-Fp")
    for path, reason in ((plain, "text format dump"), (tmp_path / "none.dump", "could not open input file")):
        code, said = drill(log, path)
        assert (code, reason in said) == (2, True), said
    assert scratch_databases() == []


def test_a_dump_of_something_else_or_of_a_newer_version_is_refused(log, dump):
    execute("INSERT INTO django_migrations (app, name, applied) VALUES ('tasks', '9999_later', now())")
    code, said = drill(log, dump())
    assert (code, "this one does not know the migration tasks.9999_later" in said) == (2, True), said
    execute("DELETE FROM django_migrations")
    code, said = drill(log, dump())
    assert (code, "holds no database of TaskPulse" in said) == (2, True), said


def test_a_dump_of_the_version_before_is_brought_up_to_date(log, dump):
    call_command("migrate", "sessions", "zero", verbosity=0)
    code, said = drill(log, dump(), "--keep", "--json")
    assert code == 0
    name = json.loads(said)["database"]
    assert scratch_databases() == [name]
    try:
        before = connection.settings_dict["NAME"]
        connection.close()
        connection.settings_dict["NAME"] = name
        assert "django_session" in connection.introspection.table_names()
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def test_rows_and_passwords_are_shown_to_nobody(log, dump, monkeypatch):
    """A command line is everybody's to read; what PostgreSQL says of a row that it refuses quotes the row."""
    commands = []

    def failing(command, env, **_):
        commands.append((command, env["PGPASSWORD"]))
        lines = ['pg_restore: error: COPY failed for table "tasks_task"', "DETAIL:  Failing row contains (private)."]
        return subprocess.CompletedProcess(command, 1, "", "\n".join(lines))

    path = dump()
    monkeypatch.setitem(connection.settings_dict, "PASSWORD", "se cret")
    monkeypatch.setattr(scratch.subprocess, "run", failing)
    code, said = drill(log, path)
    assert code == 2
    assert "COPY failed" in said
    assert "private" not in said
    ((command, password),) = commands
    assert password == "se cret"
    assert "se cret" not in " ".join(command)


def test_without_the_program_it_says_what_to_install(log, tmp_path, monkeypatch):
    def absent():
        raise postgres.PostgresError("not installed")

    monkeypatch.setattr(scratch.shutil, "which", lambda name: None)
    monkeypatch.setattr(scratch.postgres, "binaries", absent)
    code, said = drill(log, tmp_path / "any")
    assert (code, "pg_restore is not on the PATH" in said) == (2, True)
    code, said = drill(log, tmp_path / "any", "--pg-restore", str(tmp_path / "none"))
    assert (code, "No such file" in said) == (2, True)
    assert scratch_databases() == []
