"""deploy/verify/taskpulse_verify.py: what it finds in a bundle or a proof, alone on a machine without TaskPulse."""

import base64
import json
import random
import sys

import pytest

from audit.checkpoint import NEXT_KEY, Checkpoint
from audit.export import Selection, bundle
from audit.merkle import Edge
from audit.models import Entry, LogHead
from audit.signed_note import Note, SigningKey
from tests.api_client import api
from tests.offline import run, verify, wrong_with
from tests.recording import task_with_versions
from tests.rewriting import disable_triggers, recompute, rewrite_tiles
from tests.signed_log import Log, execute, grow, record_all
from tests.test_verify_audit import act_of_erasure, erase


@pytest.fixture
def log(db) -> Log:
    log = Log()
    grow(5)
    log.sign()
    log.task = task_with_versions(4)
    record_all()
    log.sign()
    return log


def lines(**selection) -> list[bytes]:
    return list(bundle(Selection(**selection)))


def changed(line: bytes, **members) -> bytes:
    return json.dumps(json.loads(line) | members).encode() + b"\n"


def key(log: Log) -> str:
    return str(log.key.verifier)


def test_a_bundle_on_another_machine(log, tmp_path):
    """As a file or from standard input, with the key as a file, and with a checkpoint that the auditor kept."""
    (tmp_path / "bundle.jsonl").write_bytes(b"".join(lines()))
    (tmp_path / "log.vkey").write_text(key(log) + "\n")
    (tmp_path / "kept").write_bytes(bytes(execute("SELECT note FROM audit_checkpoint WHERE size = 5")[0][0]))
    code, said = run(tmp_path, "--key", "log.vkey", "--checkpoint", "kept", "bundle.jsonl")
    assert (code, said["result"]) == (0, "sound")
    assert {
        "9 entries, 1 to 9", "no entry between the first and the last is missing", "your checkpoint of 5 entries agrees",
    } <= set(said["details"])  # fmt: skip
    assert run(tmp_path, "--key", key(log), "-", given=b"".join(lines(task=log.task.pk)))[0] == 0
    code, said = run(tmp_path, "--key", key(log), "-", given=b"".join(lines(actor="7")))
    assert (code, "not proved: that these are all entries of actor 7" in said["details"][1] + said["details"][2]) == (0, True)


def test_a_single_entry_with_its_proof(log, tmp_path):
    entry = Entry.objects.get(seq=7)
    auditor = api("auditor")
    (tmp_path / "entry.tlog-proof").write_bytes(auditor.get(f"/api/audit/{entry.event_id}/proof").content)
    (tmp_path / "entry.json").write_bytes(auditor.get(f"/api/audit/{entry.event_id}").content)
    (tmp_path / "event.json").write_text(json.dumps(entry.event_data))
    (tmp_path / "other.json").write_text(json.dumps(entry.event_data | {"reason": "another"}))
    assert run(tmp_path, "--key", key(log), "entry.tlog-proof")[1]["details"][-1].startswith("not proved: what the event says")
    for name in ("entry.json", "event.json"):
        code, said = run(tmp_path, "--key", key(log), "entry.tlog-proof", "--event", name)
        assert (code, said["details"][-1]) == (0, "the event is the one that was recorded")
    code, said = run(tmp_path, "--key", key(log), "entry.tlog-proof", "--event", "other.json")
    assert (code, "its SHA-256 is another" in said["details"][0]) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["--key", "nonsense", "-"], b"", "expected a verifier key"),
        (["--key", "KEY", "nowhere.jsonl"], b"", "nowhere.jsonl"),
        (["--key", "KEY", "-"], b"", "without its end line"),
        (["--key", "KEY", "--checkpoint", "nowhere", "-"], b"", "nowhere"),
    ],
)
def test_what_could_not_be_checked_is_no_verdict(tmp_path, arguments, given, said):
    vkey = str(SigningKey.generate("taskpulse/audit").verifier)
    code, report = run(tmp_path, *[vkey if word == "KEY" else word for word in arguments], given=given)
    assert (code, report["result"], said in report["details"][0]) == (2, "could not check", True)


def test_the_wrong_key_and_a_missing_witness(log, tmp_path):
    stranger = str(SigningKey.generate("taskpulse/audit").verifier)
    assert "bears no signature by a key" in wrong_with(lines(), stranger)
    (tmp_path / "bundle.jsonl").write_bytes(b"".join(lines()))
    code, said = run(tmp_path, "--key", key(log), "--witness", stranger, "bundle.jsonl")
    assert (code, "bears no cosignature" in said["details"][0]) == (1, True)


def test_a_key_that_hands_over_in_the_bundle(log):
    new = SigningKey.generate(log.key.verifier.name)
    first = lines()
    grow(1)
    head = LogHead.objects.get()
    root = Edge.from_bytes(head.size, bytes(head.edge)).root()
    both = Checkpoint(head.origin, head.size, root, (f"{NEXT_KEY}{new.verifier}",))
    note = bytes(Note(both.text, (log.key.sign(both.text), new.sign(both.text))))
    execute("INSERT INTO audit_checkpoint (log, size, root, note) VALUES (1, %s, %s, %s)", both.size, both.root, note)
    second = lines(from_seq=10)
    grow(1)
    log.sign(new)
    third = lines(from_seq=11)
    assert wrong_with([*first, *second, *third], key(log)) is None
    assert "bears no signature" in wrong_with([*first, *third], key(log))


# What whoever hands the bundle over could change.


def test_every_line_that_is_left_out_repeated_or_swapped_is_found(log):
    whole = lines()
    for at in range(1, len(whole) - 1):
        assert f"entry {at} is missing" in wrong_with(whole[:at] + whole[at + 1 :], key(log))
        assert "after entry" in wrong_with([*whole[: at + 1], *whole[at:]], key(log))
        assert wrong_with([*whole[:at], *whole[at + 1 : at + 2], whole[at], *whole[at + 2 :]], key(log))
    assert wrong_with(whole[:-1], key(log)) == "cut off"
    assert "an entry before the line" in wrong_with(whole[1:], key(log))
    assert "after the end" in wrong_with([*whole, whole[-2]], key(log))
    of_task = lines(task=log.task.pk)
    assert "is version 3" in wrong_with(of_task[:2] + of_task[3:], key(log))
    assert "the bundle had 4 entries, 3 are here" in wrong_with(of_task[:4] + of_task[5:], key(log))


def test_bundles_that_follow_upon_one_another(log):
    first = lines()
    grow(4)
    log.sign()
    assert wrong_with(first + lines(from_seq=10), key(log), held=log.held) is None
    assert "entries 10 to 10 are missing" in wrong_with(first + lines(from_seq=11), key(log))
    assert "was there already" in wrong_with(first + lines(from_seq=9), key(log))
    cut = first[:4]
    assert wrong_with(cut + lines(from_seq=4), key(log)) is None
    assert "entries 4 to 4 are missing" in wrong_with(cut + lines(from_seq=5), key(log))
    assert "another selection" in wrong_with(first + lines(from_seq=10, actor="7"), key(log))


def test_every_changed_byte_of_an_entry_is_found(log):
    """Of a line with its proof; but what stands beside digest, leaf and checkpoint, such as white space."""
    rng = random.Random(5)
    whole = lines()
    document = json.loads(whole[4])
    for _ in range(300):
        at = rng.randrange(len(whole[4]))
        line = whole[4][:at] + bytes([whole[4][at] ^ rng.choice([1, 2, 4, 8, 16, 32])]) + whole[4][at + 1 :]
        try:
            same = json.loads(line) == document
        except ValueError:
            same = False
        if not same:
            assert wrong_with([*whole[:4], line, *whole[5:]], key(log)), at


def test_another_log_entry_or_checkpoint(log):
    whole = lines()
    other = make_other_log_bundle(log)
    assert wrong_with([whole[0], other[1], *whole[2:]], key(log))
    assert wrong_with([other[0], *whole[1:]], key(log))
    for member, value in (("size", 8), ("origin", "another"), ("first_seq", 2), ("from_seq", 2)):
        assert wrong_with([changed(whole[0], **{member: value}), *whole[1:]], key(log)), member
    odd = {"checkpoint": "\ud800"}, {"checkpoint": None}, {"kind": "x"}, {"selection": 5}, {"from_seq": "1"}
    for line in (*[changed(whole[0], **members) for members in odd], b"[]", b"\xff"):
        assert wrong_with([line, *whole[1:]], key(log)), line
    for members in ({"seq": "3"}, {"event": {"a": "\ud800"}}, {"event": None}, {"proof": 5}, {"proof": "\ud800"}):
        assert wrong_with([*whole[:3], changed(whole[3], **members), *whole[4:]], key(log)), members
    seven, eight = json.loads(whole[7]), json.loads(whole[8])
    assert "the event is not the one" in wrong_with([*whole[:7], changed(whole[7], event=eight["event"]), *whole[8:]], key(log))
    assert wrong_with([*whole[:7], changed(whole[7], proof=eight["proof"]), *whole[8:]], key(log))
    # Record and index of another entry: the hashes do not lead to the root.
    forged = base64.b64decode(seven["proof"].split("\n")[1][6:]).replace(b'",7,"', b'",8,"')
    proof = seven["proof"].replace(seven["proof"].split("\n")[1][6:], base64.b64encode(forged).decode())
    assert "the entry is not in the tree" in wrong_with([*whole[:7], changed(whole[7], proof=proof), *whole[8:]], key(log))


def make_other_log_bundle(log: Log) -> list[bytes]:
    """The same log as it would have gone on by a fork that the same key signed."""
    disable_triggers()
    execute("UPDATE task_audit_log SET actor_id = 'forged' WHERE seq = 1")
    recompute(1)
    rewrite_tiles()
    execute("DELETE FROM audit_checkpoint")
    log.held.clear()
    log.sign()
    return lines()


def test_a_checkpoint_that_was_kept_tells_a_fork(log):
    """The bundle is sound by itself: only what was kept tells that another history was shown before."""
    kept = list(log.held)
    other = make_other_log_bundle(log)
    assert "record and event differ in actor_id" in wrong_with(other, key(log))
    execute("UPDATE task_audit_log SET event_data = jsonb_set(event_data, '{actorid}', '\"forged\"') WHERE seq = 1")
    other = make_other_log_bundle(log)
    assert wrong_with(other, key(log)) is None
    assert "the first 5 entries are not those of your checkpoint" in wrong_with(other, key(log), held=kept[:1])
    # One of the bundle's own size tells without the entries before.
    for part in (lines(from_seq=7), lines(task=log.task.pk)):
        assert wrong_with(part, key(log), held=kept[:1]) is None
        assert "the first 9 entries are not those of your checkpoint" in wrong_with(part, key(log), held=kept)


@pytest.mark.foreign_events
def test_erased_entries_need_the_event_that_names_them(log, tmp_path):
    disable_triggers()
    event_id = act_of_erasure([[2, 3], [6, 6]])
    log.sign()
    erase(event_id, 2, 6)
    assert wrong_with(lines(), key(log)) is None
    code, said = run(tmp_path, "--key", key(log), "-", given=b"".join(lines()))
    assert (code, "2 of them are erased: what they said cannot be checked" in said["details"]) == (0, True)
    code, said = run(tmp_path, "--key", key(log), "-", given=b"".join(lines(task=log.task.pk)))
    assert (code, "1 of them are erased: what they said cannot be checked" in said["details"]) == (0, True)
    erase(event_id, 4)
    assert "entry 4: it is marked as erased by the event" in wrong_with(lines(), key(log))


@pytest.mark.foreign_events
def test_a_marker_in_the_place_of_a_payload_is_found(log, tmp_path):
    """By whoever hands the bundle over: no event names it, or one that names others, or one that is not told."""
    disable_triggers()
    event_id = str(act_of_erasure([[6, 6], [11, 11]]))
    log.sign()
    whole, account = lines(), {"redacted": event_id}
    forged = changed(whole[4], event={"redacted": "01a1fd43-ffb0-720c-9e3d-f63706fd558c"})
    assert "which is not in the bundle" in wrong_with([*whole[:4], forged, *whole[5:]], key(log))
    forged = changed(whole[4], event=account)
    assert "which does not name it" in wrong_with([*whole[:4], forged, *whole[5:]], key(log))
    erase(event_id, 6)
    of_task = lines(task=log.task.pk)
    assert [json.loads(line)["kind"] for line in of_task] == ["log", "account", *["entry"] * 4, "end"]
    assert wrong_with(of_task, key(log)) is None
    assert "which is not in the bundle" in wrong_with([of_task[0], *of_task[2:]], key(log))
    other = json.loads(whole[4])
    for members in ({"event": json.loads(of_task[4])["event"]}, {name: other[name] for name in ("seq", "event", "proof")}):
        assert wrong_with([of_task[0], changed(of_task[1], **members), *of_task[2:]], key(log))
    # One that came before what it erases accounts for nothing.
    grow(1)
    log.sign()
    later = lines(from_seq=10)
    assert "does not name it" in wrong_with([*later[:2], changed(later[2], event=account), *later[3:]], key(log))


@pytest.mark.foreign_events
def test_an_erasure_above_the_checkpoint_could_not_be_checked(log, tmp_path):
    disable_triggers()
    for recorded in (False, True):
        event_id = act_of_erasure([[2, 2]], recorded=recorded)
        erase(event_id, 2)
        found = lines()
        assert json.loads(found[-1])["pending"] == [str(event_id)]
        code, said = run(tmp_path, "--key", key(log), "-", given=b"".join(found))
        assert (code, f"entry 2 is marked as erased by the event {event_id}, which no checkpoint" in said["details"][0]) == (
            2,
            True,
        )
    # What is nowhere is not pending.
    erase("01a1fd43-ffb0-720c-9e3d-f63706fd558c", 2)
    assert "which is not in the bundle" in wrong_with(lines(), key(log))
    erase(event_id, 2)
    log.sign()
    assert wrong_with(lines(until_seq=4), key(log)) is None
    assert wrong_with([*found, *lines(from_seq=10)], key(log)) is None  # the bundle of tomorrow


def test_what_is_given_and_does_not_fit_is_refused(log, tmp_path):
    entry = Entry.objects.get(seq=7)
    proof = api("auditor").get(f"/api/audit/{entry.event_id}/proof").content
    (tmp_path / "entry.tlog-proof").write_bytes(proof)
    (tmp_path / "bundle.jsonl").write_bytes(b"".join(lines()))
    (tmp_path / "event.json").write_text(json.dumps(entry.event_data))
    (tmp_path / "marker.json").write_text(json.dumps({"redacted": str(entry.event_id)}))
    (tmp_path / "twice.json").write_text(json.dumps(entry.event_data).replace("{", '{"id": "another", ', 1))
    for name, size, root in (("same", 9, log.held[1].root), ("older", 5, log.held[0].root), ("forked", 9, bytes(32))):
        text = Checkpoint("taskpulse/audit", size, root).text
        (tmp_path / name).write_bytes(bytes(Note(text, (log.key.sign(text),))))

    def said(*arguments: str) -> tuple[int, str]:
        code, report = run(tmp_path, "--key", key(log), *arguments)
        return code, "\n".join(report["details"])

    code, text = said("entry.tlog-proof", "--checkpoint", "same")
    assert (code, "your checkpoint of 9 entries agrees" in text) == (0, True)
    code, text = said("entry.tlog-proof", "--checkpoint", "forked")
    assert (code, "two trees of 9 entries were signed" in text) == (1, True)
    code, text = said("entry.tlog-proof", "--checkpoint", "older")
    assert (code, "whether one contains the other only a bundle tells" in text) == (2, True)
    code, text = said("bundle.jsonl", "--event", "event.json")
    assert (code, "--event goes with a single proof" in text) == (2, True)
    code, text = said("entry.tlog-proof", "--event", "marker.json")
    assert (code, "it is marked as erased by the event" in text) == (2, True)
    code, text = said("entry.tlog-proof", "--event", "twice.json")
    assert (code, text) == (1, "a JSON object has a member twice")


def test_a_member_that_stands_twice_is_found(log):
    """Python would take the last, another reader the first: what is shown must be what was checked."""
    whole = lines()
    twice = whole[4].replace(b'"data":{', b'"data":{"task":{"title":"shown"},', 1)
    assert twice != whole[4]
    assert "a member twice" in wrong_with([*whole[:4], twice, *whole[5:]], key(log))


def test_the_sequence_of_an_event_is_its_version(log):
    """Whoever may append could record another, with digest and leaf to match."""
    disable_triggers()
    execute("UPDATE task_audit_log SET version = version + 1 WHERE seq = 7")
    recompute(7)
    rewrite_tiles()
    execute("DELETE FROM audit_checkpoint")
    log.held.clear()
    log.sign()
    assert "entry 7: record and event differ in version" in wrong_with(lines(), key(log))


def test_a_fault_of_its_own_is_no_verdict(monkeypatch, capsys):
    monkeypatch.setattr(verify, "check", lambda options: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["taskpulse_verify.py", "--key", "x", "-"])
    assert verify.main() == 2
    assert "could not check: ZeroDivisionError" in capsys.readouterr().err


def test_a_log_of_several_tiles(db):
    log = Log()
    for count in (100, 200, 300):
        grow(count)
        log.sign()
    found = lines()
    assert log.pinned > 512
    assert wrong_with(found, key(log), held=log.held) is None
    assert wrong_with(lines(from_seq=300), key(log)) is None
