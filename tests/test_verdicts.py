"""Exit codes of verify_audit, restore_drill and export_audit: what kept them from looking is 2, never a verdict on the log."""

import random
import threading
import time

import psycopg
import pytest

from audit.verification import spans
from audit.verification.verifier import Verifier
from tests.running_up import manage
from tests.signed_log import make_log
from tests.test_verify_audit import command, log  # noqa: F401 (a fixture)


def end_whoever_waits_for(url: str, table: str) -> threading.Thread:
    """Holds the table until somebody waits for it, and ends that one's connection, as a failover does."""

    def hold_and_end() -> None:
        with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as other:
            holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            held.set()
            waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
            end = time.monotonic() + 60
            while not other.execute(waiting, [table]).fetchall() and time.monotonic() < end:
                time.sleep(0.02)

    held, thread = threading.Event(), threading.Thread(target=hold_and_end)
    thread.start()
    assert held.wait(20)
    return thread


@pytest.mark.parametrize(
    ("table", "jobs"),
    # Tiles are read in each span, the table of labels when the subjects of no task are looked at.
    [("audit_tile", 1), ("audit_tile", 2), ("tasks_label", 1)],
)
def test_a_connection_that_ends_in_mid_verification_is_no_tampering(committed_db, monkeypatch, table, jobs):
    monkeypatch.setattr(spans, "SPAN", 16)
    key = str(make_log(random.Random(1), 40, 2).key.verifier)
    ends = end_whoever_waits_for(committed_db, table)
    code, text = command("--no-topic", "--key", key, "--jobs", str(jobs))
    ends.join()
    assert (code, "could not be checked: terminating connection due to administrator command" in text) == (2, True), text
    assert command("--no-topic", "--key", key, "--jobs", str(jobs))[0] == 0


def test_a_database_that_no_process_can_reach_is_said(log, monkeypatch):  # noqa: F811 (a fixture)
    monkeypatch.setattr(spans, "SPAN", 4)
    monkeypatch.setattr(Verifier, "_parameters", lambda self: {"host": "localhost", "port": 9, "connect_timeout": 2})
    code, text = command("--no-topic", "--key", str(log.key.verifier), "--jobs", "2")
    assert (code, "could not be checked: connection failed" in text or "refused" in text) == (2, True), text


def test_a_fault_of_our_own_is_no_verdict_either(log, monkeypatch, capsys):  # noqa: F811 (a fixture)
    def look(*_):
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr(spans, "look", look)
    code, text = command("--no-topic", "--key", str(log.key.verifier))
    assert (code, text) == (2, "the log could not be checked: ZeroDivisionError: of our own")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["verify_audit", "restore_drill", "export_audit"])
def test_with_wrong_settings_there_is_no_verdict(tmp_path, name):
    found = manage(tmp_path, name, DATABASE_URL="mysql://u@h/db")
    assert (found.returncode, "DATABASE_URL: expected" in found.stderr) == (2, True)
