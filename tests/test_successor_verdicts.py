"""Two logs in one database, the first with a tail that no checkpoint of its own was ever signed for: what is said of them."""

import gzip
import json

import pytest
from django.core.management import call_command

from audit import successor
from audit.checkpoint import Checkpoint
from audit.export import Selection, bundle
from audit.models import Entry, LogHead
from audit.signed_note import SigningKey
from audit.tile_writer import read_head
from audit.verification import spans
from tests.api_client import api, problem
from tests.offline import run, wrong_with
from tests.recording import task_with_versions
from tests.rewriting import disable_triggers, recompute
from tests.signed_log import Log, execute, grow, record_all
from tests.test_archive import END
from tests.test_verify_audit import act_of_erasure, command, erase, only

ORIGIN, SECOND = "taskpulse/audit", "taskpulse/audit/10"


def open_successor(log: Log, promised: Checkpoint | None = None) -> None:
    """As `audit_log new` does, and the relay that then signs."""
    successor.open_successor(None, promised)
    grow(2)
    log.sign(log.key.named(read_head().origin))


@pytest.fixture
def log(db) -> Log:
    """Five entries that were signed, four of a task that were not, and a successor from entry 10 on with three that were."""
    log = Log()
    grow(5)
    log.sign()
    log.task = task_with_versions(4)
    record_all()
    open_successor(log)
    return log


def key(log: Log) -> str:
    return str(log.key.verifier)


# verify_audit.


def test_the_tail_of_a_closed_log_is_pinned_by_its_successor(log):
    report = log.verify()
    assert not report.tampered, list(map(str, report.findings))
    assert [(pin.origin, pin.first, pin.last, pin.until) for pin in report.pins] == [(ORIGIN, 1, 9, 9), (SECOND, 10, 12, 12)]
    assert report.pinned == 12
    assert not any("cut off" in text for text in report.not_proved)
    # Nothing outside holds the successor: then nothing holds the tail.
    report = log.verify(held=log.held[:1])
    assert ([pin.until for pin in report.pins], report.pinned) == ([5, None], 5)
    assert any("Entries 6 to 12 can still be cut off" in text for text in report.not_proved)


def test_what_is_open_in_each_log_is_said_of_each(log):
    """A checkpoint of the second log says nothing of the first where the entry that opens it cannot be read."""
    disable_triggers()
    execute("UPDATE task_audit_log SET actor_name = 'x' WHERE seq = 10")
    report = log.verify()
    assert (only(report).seq, report.pinned) == (10, 5)
    assert any("Entries 6 to 9 can still be cut off" in text for text in report.not_proved)
    assert any("That the log taskpulse/audit is the one that was closed: entry 10" in text for text in report.not_proved)


@pytest.mark.foreign_events
def test_an_opening_that_was_erased_pins_nothing_and_is_no_tampering(log):
    disable_triggers()
    erase(act_of_erasure([[10, 10]]), 10)
    report = log.verify()
    assert not report.tampered, list(map(str, report.findings))
    assert report.pinned == 5
    assert any("entry 10, which says so, is altered or erased" in text for text in report.not_proved)


@pytest.mark.foreign_events
def test_a_tail_that_was_made_anew_is_found(log):
    """Head, tiles and all, as the database's owner can: no checkpoint of the log itself tells."""
    disable_triggers()
    execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,task,title}', '\"forged\"') WHERE seq = 8")
    recompute(8)
    execute("DELETE FROM audit_tile")
    found = log.verify().first_bad
    assert (found.check, found.seq, found.until) == ("tree", 6, 9)
    assert "entries that stood there when the log was closed, as entry 10 says" in found.detail


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE audit_log SET origin = 'another' WHERE first_seq = 1",
            "says that taskpulse/audit was closed with 9 entries; the log before is another, with 9",
        ),
        ("UPDATE task_audit_log SET event_type = 'audit.log.closed' WHERE seq = 10", "its columns are not what its leaf hash says"),
    ],
)
def test_an_opening_that_speaks_of_another_log_is_found(log, statement, said):
    disable_triggers()
    execute(statement)
    assert any(said in finding.detail for finding in log.verify().findings)


@pytest.mark.foreign_events
def test_a_log_that_begins_by_nobody_s_word_is_found(db):
    log = Log()
    grow(5)
    log.sign()
    LogHead.objects.create(origin="taskpulse/audit/6", first_seq=6)
    grow(2)
    found = only(log.verify())
    assert (found.seq, found.detail) == (6, "the log taskpulse/audit/6 does not begin with the entry that opens it")


def test_the_command_on_two_logs(log, monkeypatch):
    monkeypatch.setattr(spans, "SPAN", 4)
    code, text = command("--no-topic", "--key", key(log), "--json", "--jobs", "1")
    assert (code, [pin["last_seq"] for pin in json.loads(text)["pins"]]) == (0, [9, 12])


# Bundles.


def lines(**selection) -> list[bytes]:
    return list(bundle(Selection(**selection)))


def test_an_honest_bundle_of_two_logs_is_sound(log, tmp_path, capsysbinary):
    call_command("export_audit")
    given = capsysbinary.readouterr().out
    assert [json.loads(line)["kind"] for line in given.splitlines()].count("entry") == 12
    code, said = run(tmp_path, "--key", key(log), "-", given=given)
    closed = "at the size of 9 entries, with which entry 10 says that it was closed"
    assert (code, said["details"][:4]) == (
        0,
        [
            "12 entries, 1 to 12",
            f"from entry 1 on each is in the log taskpulse/audit {closed}",
            "from entry 10 on each is in the log taskpulse/audit/10 at the size of 3 entries",
            "no entry between the first and the last is missing",
        ],
    )


def test_parts_of_it_are_sound_and_follow_upon_one_another(log):
    assert wrong_with(lines(task=log.task.pk), key(log)) is None
    assert wrong_with(lines(from_seq=8), key(log)) is None
    assert wrong_with(lines(until_seq=8) + lines(from_seq=9), key(log)) is None
    whole = lines()
    assert wrong_with(whole[:9] + lines(from_seq=8), key(log)) is None


def test_what_is_changed_in_it_is_found(log):
    whole = lines()
    at = next(number for number, line in enumerate(whole) if b'"closed"' in line)
    told = json.loads(whole[at])
    other = json.loads(whole[1])
    opening = told["closed"]
    for closed, said in (
        (opening | {"proof": other["proof"], "event": other["event"], "seq": 1}, "is not the one that opens a log"),
        (opening | {"event": opening["event"] | {"reason": "another"}}, "the event is not the one that was recorded"),
        (opening | {"seq": 11}, "its record is of entry 10"),
    ):
        found = wrong_with([*whole[:at], json.dumps(told | {"closed": closed}).encode(), *whole[at + 1 :]], key(log))
        assert said in found
    moved = json.dumps(told | {"first_seq": 2}).encode()
    assert "does not follow upon the log that was closed" in wrong_with([*whole[:at], moved, *whole[at + 1 :]], key(log))
    left_out = {name: value for name, value in told.items() if name != "closed"}
    assert "no signed note" in wrong_with([*whole[:at], json.dumps(left_out).encode(), *whole[at + 1 :]], key(log))
    assert "entry 7 is missing" in wrong_with(whole[: at + 2] + whole[at + 3 :], key(log))
    stranger = str(SigningKey.generate(ORIGIN).verifier)
    assert "bears no signature" in wrong_with(whole, stranger)


@pytest.mark.foreign_events
def test_a_fork_of_the_tail_is_found_offline(log):
    """Signed entries were rewritten, and a successor opened upon what came of it: each proof holds, and the tree does not."""
    disable_triggers()
    whole = lines()
    execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{data,task,title}', '\"forged\"') WHERE seq = 3")
    recompute(3)
    execute("DELETE FROM audit_tile; DELETE FROM audit_bundle")
    execute("DELETE FROM task_audit_log WHERE seq > 9")
    execute("DELETE FROM audit_log WHERE first_seq > 1")
    execute("DELETE FROM audit_checkpoint WHERE log > 1")
    log.held.pop()
    open_successor(log)
    at = next(number for number, line in enumerate(whole) if b'"closed"' in line)
    found = [*whole[:at], *lines(from_seq=6)]
    assert "the entries together do not make the tree" in wrong_with(found, key(log))


def test_a_successor_that_is_not_signed_yet_covers_nothing(db):
    log = Log()
    grow(5)
    log.sign()
    grow(2)
    successor.open_successor(None, None)
    found = lines()
    assert json.loads(found[-1]) == {"kind": "end", "entries": 5, "next_seq": 6}
    assert wrong_with(found, key(log)) is None
    grow(1)
    log.sign(log.key.named(read_head().origin))
    assert wrong_with(found + lines(from_seq=6), key(log)) is None


def test_a_log_without_any_checkpoint_is_covered_by_the_second_after_it(db):
    """Closed twice before the relay signed: an entry that is covered covers the one that covers."""
    log = Log()
    grow(3)
    successor.open_successor(None, None)
    grow(1)
    open_successor(log)
    assert len(LogHead.objects.all()) == 3
    report = log.verify()
    assert (list(map(str, report.findings)), report.pinned) == ([], 8)
    assert len(lines()) == 3 + 8 + 1
    assert wrong_with(lines(), key(log)) is None


def test_a_partition_in_which_a_log_was_closed_is_archived(committed_db, tmp_path):
    execute("UPDATE audit_log SET first_seq = %s", END - 299)
    log = Log()
    grow(200)
    log.sign()
    grow(90)
    successor.open_successor(None, None)
    grow(300)
    log.sign(log.key.named(read_head().origin))
    call_command("archive_audit", str(tmp_path), "--key", key(log))
    (path,) = tmp_path.glob("*.gz")
    assert Entry.objects.earliest("seq").seq == END + 1
    code, said = run(tmp_path, "--key", key(log), "-", given=gzip.decompress(path.read_bytes()))
    assert (code, f"300 entries, {END - 299} to {END}" in said["details"]) == (0, True), said
    report = log.verify()
    assert not report.tampered, list(map(str, report.findings))
    assert any(f"entry {END - 9}, which says so, is archived, and its file proves it" in text for text in report.not_proved)


# The proof of one entry.


def test_the_proof_of_an_entry_in_the_tail_is_in_an_export(log):
    auditor = api("auditor")
    assert auditor.get(f"/api/audit/{Entry.objects.get(seq=5).event_id}/proof").status_code == 200
    response = auditor.get(f"/api/audit/{Entry.objects.get(seq=7).event_id}/proof")
    found = problem(response, 404)
    assert found["type"].endswith("/covered-by-successor")
    assert "entry 10, which opens its successor" in found["detail"]
    assert "Retry-After" not in response
    path = found["detail"].rpartition(" ")[2]
    assert wrong_with(auditor.get(path).getvalue().splitlines(keepends=True), key(log)) is None
