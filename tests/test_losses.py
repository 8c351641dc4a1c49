"""After a restore that lost what was signed, and `audit_log new`: a loss that is on record is told apart from tampering."""

import json

import pytest

from audit import successor
from audit.checkpoint import Checkpoint
from audit.export import Selection, bundle
from audit.signed_note import Note
from audit.tile_writer import read_head
from tests.offline import run, verify
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, grow
from tests.tampering import back_to
from tests.test_verify_audit import command

pytestmark = pytest.mark.foreign_events
ORIGIN = "taskpulse/audit"


@pytest.fixture
def log(db) -> Log:
    """Of 7 entries, as a dump had them: checkpoints of 5, and since the dump of 7 and 9, which others keep. Triggers are off."""
    log = Log()
    grow(5)
    log.sign()
    grow(2)
    log.sign()
    grow(2)
    log.sign()
    disable_triggers()
    restore(log)
    return log


def restore(log: Log) -> None:
    back_to(7)
    execute("DELETE FROM audit_checkpoint WHERE size > 5")
    execute("ALTER TABLE tasks_task DISABLE TRIGGER ALL")
    execute("DELETE FROM tasks_task WHERE id NOT IN (SELECT task_id FROM task_audit_log)")
    execute("ALTER TABLE tasks_task ENABLE TRIGGER ALL")


def open_successor(log: Log, promised: Checkpoint | None, sign: bool = True) -> None:
    successor.open_successor(None, promised)
    grow(2)
    if sign:
        log.sign(log.key.named(read_head().origin))


def losses(report) -> list[tuple[int, int, int, int]]:
    assert not report.tampered, list(map(str, report.findings))
    return [(loss.first, loss.last, loss.closed, loss.accounted_by) for loss in report.losses]


def test_without_a_successor_it_is_cut(log):
    found = {finding.detail for finding in log.verify().findings}
    assert found == {
        "1 checkpoints that were signed are not stored as they were",
        "cut: the log ends with entry 7, a checkpoint of 9 entries was signed (topic)",
    }


def test_what_a_signed_successor_accounts_for_is_a_loss(log):
    open_successor(log, log.held[2])
    report = log.verify()
    assert losses(report) == [(8, 9, 7, 8)]
    assert report.pinned == 10
    assert report.as_json()["result"] == "lost"
    # The log says so itself, whoever keeps what.
    assert losses(log.verify(held=[])) == [(6, 9, 7, 8)]
    assert losses(log.verify(jobs=2, held=[log.held[2]])) == [(6, 9, 7, 8)]


def test_what_is_printed_of_a_loss_and_when_it_is_known(log):
    open_successor(log, log.held[2])
    arguments = ["--no-topic", "--key", str(log.key.verifier)]
    code, text = command(*arguments)
    assert code == 3
    said = f"LOST: {ORIGIN}: entries 6 to 9 as they were signed for. The log was closed with entry 7; accounted for by entry 8."
    assert said in text
    assert "SOUND: 10 entries" in text
    assert command(*arguments, "--known-loss", "9")[0] == 3
    code, text = command(*arguments, "--known-loss", "8", "--json")
    assert (code, json.loads(text)["losses"][0]["accounted_by"]) == (0, 8)
    execute("UPDATE task_audit_log SET actor_name = 'x' WHERE seq = 6")
    assert command(*arguments, "--known-loss", "8")[0] == 1


def test_entries_that_were_recorded_in_the_place_of_those_that_were_lost(log):
    """The consumer goes on after a restore, while the relay signs nothing: the log has 11 others when it is closed."""
    grow(4)
    assert log.verify().tampered
    open_successor(log, log.held[2])
    assert losses(log.verify()) == [(8, 9, 11, 12)]
    assert losses(log.verify(held=[])) == [(6, 9, 11, 12)]


@pytest.mark.parametrize(
    "promised",
    [None, Checkpoint(ORIGIN, 8, bytes(32)), Checkpoint(ORIGIN, 9, bytes(32)), Checkpoint(ORIGIN, 7, bytes(32))],
    ids=["none", "less", "another", "little"],
)
def test_what_the_successor_passes_over_is_tampering(log, promised):
    """As whoever owns the database could open one; the relay would not sign the first, nor the second and last."""
    open_successor(log, promised)
    report = log.verify()
    assert any("cut: the log ends with entry 7, a checkpoint of 9" in finding.detail for finding in report.findings)


def test_a_successor_that_nobody_signed_accounts_for_nothing(log):
    open_successor(log, log.held[2], sign=False)
    assert log.verify().tampered
    log.sign(log.key.named(read_head().origin))
    assert losses(log.verify())


def test_a_log_that_was_changed_after_it_was_closed_is_not_excused(log):
    open_successor(log, log.held[2])
    execute("UPDATE task_audit_log SET leaf_hash = sha256('') WHERE seq = 7")
    report = log.verify(from_seq=8)
    assert report.tampered
    assert report.losses == []


def test_a_checkpoint_that_is_stored_and_disagrees_is_not_excused(log):
    open_successor(log, log.held[2])
    note = Checkpoint(ORIGIN, 6, bytes(32)).text
    execute(
        "INSERT INTO audit_checkpoint (log, size, root, note) VALUES (1, 6, %s, %s)",
        bytes(32),
        bytes(Note(note, (log.key.sign(note),))),
    )
    assert log.verify().tampered


def test_nothing_is_lost_where_the_successor_holds_all_that_was_promised(log):
    """A log may be closed without need, or because its key was lost."""
    open_successor(log, log.held[1])
    report = log.verify(held=log.held[:2])
    assert losses(report) == []
    assert report.as_json()["result"] == "sound"


# Offline.


def test_offline_a_checkpoint_that_was_lost_is_told_apart_from_one_that_was_passed_over(log, tmp_path):
    open_successor(log, log.held[2])
    given = b"".join(bundle(Selection()))
    for kept in log.held[:3]:
        (tmp_path / str(kept.size)).write_bytes(bytes(Note(kept.text, (log.key.sign(kept.text),))))
    text = Checkpoint(ORIGIN, 10, bytes(32)).text
    (tmp_path / "10").write_bytes(bytes(Note(text, (log.key.sign(text),))))
    for size, expected, said in (
        (5, 0, "your checkpoint of 5 entries agrees"),
        (7, 0, "your checkpoint of 7 entries agrees"),
        (9, 3, "lost: what your checkpoint of 9 entries was signed for, as entry 8 says"),
        (10, 1, "entry 8 says that taskpulse/audit was closed with 7 entries, and passes over your checkpoint of 10"),
    ):
        code, report = run(tmp_path, "--key", str(log.key.verifier), "--checkpoint", str(size), "-", given=given)
        assert (size, code, said in report["details"]) == (size, expected, True), report


def test_offline_entries_that_were_recorded_in_the_place_of_lost_ones(log):
    grow(4)
    open_successor(log, log.held[2])
    known = verify.Keys([verify.Key.parse(str(log.key.verifier))], [])
    held = [verify.Checkpoint(kept.origin, kept.size, kept.root, "") for kept in log.held[:3]]
    read = verify.Bundle(known, held)
    read.read(bundle(Selection()))
    read.finish()
    assert (read.compared, read.lost) == ({(ORIGIN, 5), (ORIGIN, 7)}, {(ORIGIN, 9)})
