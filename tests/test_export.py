"""Bundles of entries with their proofs: what is in them, by command and by the API."""

import json
import subprocess
import sys
from datetime import timedelta

import orjson
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from audit import export
from audit.checkpoint import open_checkpoint
from audit.export import Selection, bundle
from audit.merkle import leaf_hash
from audit.models import Entry
from audit.tlog_proof import TlogProof
from tasks.api import long_answers
from tasks.events import canonical
from tests import proof_verification
from tests.api_client import api, problem
from tests.offline import wrong_with
from tests.recording import task_with_versions
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, grow, record_all


@pytest.fixture
def log(db) -> Log:
    """Five tasks, then one with four versions; two more lie above the checkpoint."""
    log = Log()
    grow(5)
    log.task = task_with_versions(4)
    record_all()
    log.sign()
    grow(2)
    return log


def lines(selection: Selection | None = None, **options) -> list[dict]:
    return [json.loads(line) for line in bundle(selection or Selection(), **options)]


def seqs(found: list[dict]) -> list[int]:
    return [line["seq"] for line in found if line["kind"] == "entry"]


def test_each_entry_has_its_event_and_a_proof_that_leads_to_the_checkpoint(log):
    begin, *entries, end = lines()
    assert begin == {
        "kind": "log", "format": export.FORMAT, "origin": "taskpulse/audit", "first_seq": 1, "size": 9, "from_seq": 1,
        "selection": {}, "checkpoint": begin["checkpoint"],
    }  # fmt: skip
    checkpoint, _ = open_checkpoint(begin["checkpoint"].encode(), [log.key.verifier])
    assert checkpoint == log.held[-1]
    assert seqs(entries) == list(range(1, 10))
    for line, entry in zip(entries, Entry.objects.order_by("seq"), strict=False):
        proof = TlogProof.parse(line["proof"].encode())
        assert proof.checkpoint.decode() == begin["checkpoint"]
        assert (leaf_hash(proof.extra), proof.index) == (bytes(entry.leaf_hash), entry.seq - 1)
        proof_verification.verify_inclusion(proof.index, checkpoint.size, leaf_hash(proof.extra), proof.path, checkpoint.root)
        assert line["event"] == entry.event_data
    raw = next(line for line in bundle(Selection()) if b'"entry"' in line)
    assert canonical(entries[0]["event"]) in raw
    assert end == {"kind": "end", "entries": 9, "next_seq": 10}


def test_a_selection_and_where_to_go_on(log):
    times = dict(Entry.objects.values_list("seq", "occurred_at"))
    task, actor = log.task.pk, Entry.objects.get(seq=7).actor_id
    assert seqs(lines(Selection(task=task))) == [6, 7, 8, 9]
    assert seqs(lines(Selection(task=task, from_seq=8))) == [8, 9]
    assert seqs(lines(Selection(since=times[7], until=times[9]))) == [7, 8]
    assert seqs(lines(Selection(until=times[1]))) == []
    assert seqs(lines(Selection(since=times[9] + timedelta(days=1)))) == []
    assert seqs(lines(Selection(actor=actor))) == [seq for seq in range(1, 10) if Entry.objects.get(seq=seq).actor_id == actor]
    assert lines(Selection(from_seq=10)) == [{"kind": "end", "entries": 0, "next_seq": 10}]
    selection = Selection(task=task, actor="7", since=times[7]).as_json()
    assert selection == {"task": str(task), "actor": "7", "since": times[7].isoformat(timespec="microseconds")[:-6] + "Z"}


@pytest.mark.parametrize("selection", [{}, {"task": True}])
def test_what_is_not_reached_in_time_is_for_the_next_bundle(log, monkeypatch, selection):
    monkeypatch.setattr(export, "_WINDOW", 2)
    monkeypatch.setattr(export, "_TASK_ROWS", 2)
    selection = {"task": log.task.pk} if selection else {}
    parts, start = [], 1
    while start < 10:
        parts += list(bundle(Selection(**selection, from_seq=start), seconds=0))
        end = json.loads(parts[-1])
        assert start < end["next_seq"] <= 10
        start = end["next_seq"]
    assert seqs(list(map(json.loads, parts))) == ([6, 7, 8, 9] if selection else list(range(1, 10)))
    assert wrong_with(parts, str(log.key.verifier), held=log.held if not selection else ()) is None


def test_it_reads_a_bounded_number_of_statements_and_a_part_of_the_tree(log, django_assert_max_num_queries):
    grow(1_000)
    log.sign()
    with django_assert_max_num_queries(3 + 2 + 6):
        assert seqs(lines()) == list(range(1, log.pinned + 1))


def test_what_was_tampered_with_goes_out_as_it_is_or_stops_the_bundle(log):
    disable_triggers()
    execute("UPDATE task_audit_log SET event_data = '[1e400]' WHERE seq = 3")
    found = list(bundle(Selection()))
    assert len(found) == 11
    assert "entry 3: the event is not the one that was recorded" in wrong_with(found, str(log.key.verifier))
    execute("UPDATE task_audit_log SET event_type = repeat('x', 70000) WHERE seq = 4")
    found = list(bundle(Selection(from_seq=5)))
    assert len(found) == 7
    with pytest.raises(CommandError, match="the bundle is incomplete: entry 4") as stopped:
        call_command("export_audit")
    assert stopped.value.returncode == 2


# The command.


def test_the_command_writes_the_bundle(log, capsysbinary):
    call_command("export_audit")
    assert capsysbinary.readouterr().out == b"".join(bundle(Selection()))
    chosen = Selection(
        log.task.pk, "7", *Entry.objects.filter(seq__in=[7, 9]).order_by("seq").values_list("occurred_at", flat=True), 8
    )
    asked = {"--task": chosen.task, "--actor": "7", "--since": chosen.since.isoformat(), "--until": chosen.until.isoformat()}
    call_command("export_audit", *[str(part) for pair in asked.items() for part in pair], "--from", "8")
    assert capsysbinary.readouterr().out == b"".join(bundle(chosen))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "7"], "expected the id of a task"),
        (["--since", "yesterday"], "expected a time with its zone"),
        (["--until", "2026-01-15T10:30:00"], "expected a time with its zone"),
        (["--from", "0"], "expected a whole number from 1 on"),
    ],
)
def test_wrong_arguments_name_what_was_expected(db, arguments, expected):
    with pytest.raises(CommandError, match=expected):
        call_command("export_audit", *arguments)


def test_a_reader_that_has_enough_ends_it_quietly(committed_db):
    log = Log()
    grow(300)
    log.sign()
    connections.close_all()
    command = [sys.executable, "manage.py", "export_audit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b'"kind":"log"' in process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert (process.wait(30), [line for line in said.splitlines() if "Error" in line or "Traceback" in line]) == (0, [])


# The API.


def test_the_api_streams_the_same_bundle(log):
    response = api("auditor").get(f"/api/audit/export?task={log.task.pk}&from=7")
    assert (response.status_code, response.streaming) == (200, True)
    assert response["Content-Type"] == export.CONTENT_TYPE
    assert response["Cache-Control"] == "no-store"
    assert response.getvalue() == b"".join(bundle(Selection(task=log.task.pk, from_seq=7)))


def test_a_request_ends_in_time_and_says_where_to_go_on(log, settings, monkeypatch):
    monkeypatch.setattr(export, "_WINDOW", 2)
    settings.WEB_REQUEST_SECONDS = 0
    found = [orjson.loads(line) for line in api("auditor").get("/api/audit/export").getvalue().splitlines()]
    assert found[-1] == {"kind": "end", "entries": 2, "next_seq": 3}


@pytest.mark.parametrize(
    "query", ["task=7", "actor=", "since=now", "until=2026-01-15", "from=0", "from=x", "page=2", "from=1&from=2"]
)
def test_wrong_parameters_are_named(log, query):
    found = problem(api("auditor").get(f"/api/audit/export?{query}"), 400)
    assert found["errors"][0]["parameter"] == query.partition("=")[0]


def test_only_a_few_at_once_and_each_gives_its_place_back(log):
    auditor = api("auditor")
    under_way = [auditor.get("/api/audit/export") for _ in range(long_answers.MOST)]
    refused = auditor.get("/api/audit/export")
    problem(refused, 429)
    assert refused["Retry-After"]
    next(iter(under_way[0].streaming_content))
    under_way[0].close()
    under_way[0].close()
    under_way.clear()  # the other is forgotten, unread
    assert all(auditor.get("/api/audit/export").getvalue() for _ in range(2 * long_answers.MOST))
    assert long_answers.places.acquire(blocking=False)
    long_answers.places.release()


def test_a_bundle_needs_no_transaction(log):
    """A stream lasts as long as its client takes: between two statements nothing is held."""
    found = bundle(Selection())
    next(found)
    before = connection.connection.info.transaction_status
    assert [json.loads(line)["kind"] for line in found][-1] == "end"
    assert connection.connection.info.transaction_status == before
