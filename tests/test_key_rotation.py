"""A log whose key was changed: what is known by which key, and that the old one alone counts no more above its hand-over."""

import random

import pytest

from audit import successor
from audit.checkpoint import NEXT_KEY, Checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.export import Selection, bundle
from audit.key_ring import KeyRing
from audit.models import LogHead
from audit.signed_note import Note, SigningKey, Unverified
from tests.offline import run, wrong_with
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, grow, make_log
from tests.test_checkpointer import KEY, ORIGIN, OTHER, every_entry, refused, signed, sizes, start  # noqa: F401 (fixtures)
from tests.test_verify_audit import command, only


@pytest.fixture
def log(db) -> Log:
    """Checkpoints of 5 and 7 entries by `key`, of 9 by both, of 11 by `next_key`."""
    log = Log()
    for count in (5, 2):
        grow(count)
        log.sign()
    log.rotate()
    for _ in range(2):
        grow(2)
        log.sign()
    return log


def by(key: SigningKey, checkpoint: Checkpoint) -> bytes:
    return bytes(Note(checkpoint.text, (key.sign(checkpoint.text),)))


def restore_note(checkpoint: Checkpoint, note: bytes) -> None:
    execute("UPDATE audit_checkpoint SET note = %s WHERE size = %s", note, checkpoint.size)


# verify_audit.


def test_the_new_key_alone_leaves_the_earlier_checkpoints_unchecked(log):
    code, text = command("--no-topic", "--key", str(log.next_key.verifier))
    assert code == 0, text
    assert "2 earlier ones not checked (give the key before)" in text
    assert "What 2 checkpoints of taskpulse/audit up to entry 7 say: they are by a key that was not given." in text
    code, text = command("--no-topic", "--key", str(log.key.verifier))
    assert (code, "not checked" in text) == (0, False)


def test_the_keys_at_hand_after_the_old_one_was_destroyed(log, settings):
    settings.AUDIT_SIGNING_KEY = log.next_key
    assert command("--no-topic")[0] == 0


def test_what_was_rewritten_below_is_found_by_the_new_key(log):
    """A root that is stored beside a signature that cannot be checked is a claim all the same."""
    disable_triggers()
    execute("UPDATE audit_checkpoint SET root = sha256(root) WHERE size = 5")
    assert command("--no-topic", "--key", str(log.next_key.verifier))[0] == 1


def test_a_key_that_signed_nothing_could_not_check(log):
    stranger = str(SigningKey.generate(ORIGIN).verifier)
    code, text = command("--no-topic", "--key", stranger)
    assert (code, "no checkpoint of taskpulse/audit is by a key that was given" in text) == (2, True)
    disable_triggers()
    execute("UPDATE task_audit_log SET actor_name = 'x' WHERE seq = 2")
    assert command("--no-topic", "--key", stranger)[0] == 1  # that needs no key


def test_an_unknown_key_after_a_known_one_is_found(log):
    disable_triggers()
    restore_note(log.held[1], by(SigningKey.generate(ORIGIN), log.held[1]))
    assert only(log.verify(held=[])).detail == "the checkpoint of 7 entries: no signature by a known key of the log"
    # By the new key alone too, where somebody outside has an earlier one.
    assert command("--no-topic", "--key", str(log.next_key.verifier))[0] == 0
    log.key = log.next_key
    assert log.verify(held=log.held[:1]).checks["checkpoints"].wrong == 2


def test_the_retired_key_alone_counts_no_more(log):
    disable_triggers()
    restore_note(log.held[3], by(log.key, log.held[3]))
    for held in ([], log.held):
        found = only(log.verify(held=held))
        assert f"signed by the retired key {ORIGIN}+{log.key.verifier.key_id.hex()} alone, which handed over at 9" in found.detail
    assert log.verify(held=[], jobs=2).tampered


# The ring.


def test_a_hand_over_counts_in_its_log_and_in_those_after_it():
    one, two, three = (SigningKey(ORIGIN, bytes([number]) * 32) for number in range(3))
    second = f"{ORIGIN}/6"
    ring = KeyRing([one.verifier], {ORIGIN: 1, second: 6, f"{ORIGIN}/9": 9})
    text = Checkpoint(second, 2, bytes(32), (f"{NEXT_KEY}{two.named(second).verifier}",)).text
    ring.open(bytes(Note(text, (one.named(second).sign(text), two.named(second).sign(text)))))
    ring.open(signed(5, key=one))  # the log before
    ring.open(signed(2, key=one.named(second), origin=second))
    ring.open(signed(9, key=two.named(second), origin=second))
    ring.open(signed(1, key=two.named(f"{ORIGIN}/9"), origin=f"{ORIGIN}/9"))
    for size, origin in ((3, second), (1, f"{ORIGIN}/9")):
        with pytest.raises(Unverified, match="retired key"):
            ring.open(signed(size, key=one.named(origin), origin=origin))
    with pytest.raises(Unverified, match="no signature by a known key"):
        ring.open(signed(3, key=three))
    # What a retired key hands over to is nobody's.
    text = Checkpoint(second, 4, bytes(32), (f"{NEXT_KEY}{three.named(second).verifier}",)).text
    ring.learn([bytes(Note(text, (one.named(second).sign(text), three.named(second).sign(text))))])
    assert three.verifier.public not in {key.public for key in ring.keys}


# The topic, and who signs.


def test_the_topic_s_checkpoints_by_the_retired_key_are_passed_over(start):  # noqa: F811 (a fixture)
    text = Checkpoint(ORIGIN, 7, bytes(32), (f"{NEXT_KEY}{OTHER.verifier}",)).text
    hand_over = bytes(Note(text, (KEY.sign(text), OTHER.sign(text))))
    CheckpointTopic().publish(ORIGIN, [signed(5), hand_over, signed(8, key=OTHER), signed(900), signed(6)])
    found = [checkpoint.size for checkpoint, _ in CheckpointTopic().all([KEY.verifier])]
    assert found == [5, 7, 8, 6]
    assert CheckpointTopic().newest(ORIGIN, [KEY.verifier]).size == 8


def test_a_stolen_retired_key_does_not_stop_the_signing(start, settings):  # noqa: F811 (a fixture)
    from tests.recording import grow_log

    grow_log(3)
    start().step()
    grow_log(1)
    start(OTHER, KEY).step()
    # The topic was lost: that the key was retired, the database alone knows.
    settings.KAFKA_CHECKPOINT_TOPIC += "-anew"
    CheckpointTopic().publish(ORIGIN, [signed(900)])
    grow_log(1)
    start(OTHER, KEY).step()
    assert (refused(), sizes()) == (None, [3, 4, 5])


# Offline.


def lines(**selection) -> list[bytes]:
    return list(bundle(Selection(**selection)))


def test_offline_the_retired_key_alone_counts_no_more(log, tmp_path):
    disable_triggers()
    execute("DELETE FROM audit_checkpoint WHERE size > 9")
    first = lines()
    restore = log.held[3]
    execute("INSERT INTO audit_checkpoint (log, size, root, note) VALUES (1, %s, %s, %s)", 11, restore.root, by(log.key, restore))
    forged = lines(from_seq=10)
    assert "signed by a key alone that had handed over" in wrong_with([*first, *forged], str(log.key.verifier))
    restore_note(restore, by(log.next_key, restore))
    assert wrong_with([*first, *lines(from_seq=10)], str(log.key.verifier)) is None
    # After a theft, as docs/auditor.md says: the new key alone, and the checkpoint of the hand-over.
    (tmp_path / "hand-over").write_bytes(bytes(execute("SELECT note FROM audit_checkpoint WHERE size = 9")[0][0]))
    arguments = ["--key", str(log.next_key.verifier), "--checkpoint", "hand-over"]
    code, said = run(tmp_path, *arguments, "-", given=b"".join(lines()))
    assert (code, "your checkpoint of 9 entries agrees" in said["details"]) == (0, True)
    code, text = command("--no-topic", "--key", str(log.next_key.verifier), "--checkpoint", str(tmp_path / "hand-over"))
    assert (code, "pinned from outside up to entry 9" in text) == (0, True)
    (tmp_path / "before").write_bytes(bytes(execute("SELECT note FROM audit_checkpoint WHERE size = 7")[0][0]))
    code, said = run(tmp_path, *arguments[:3], "before", "-", given=b"".join(lines()))
    assert (code, "--checkpoint before: the checkpoint of 7 entries bears no signature" in said["details"][0]) == (2, True)


def test_a_rotation_in_a_successor_is_known_in_the_log_after_it(db):
    log = Log()
    grow(3)
    log.sign()
    for _ in range(2):
        successor.open_successor(None, None)
        grow(2)
        origin = LogHead.objects.latest("first_seq").origin
        if log.next_key is None:
            new = SigningKey.generate(ORIGIN)
            log.next_key = new.named(origin)
            log.sign(log.key.named(origin))
        else:
            log.sign(new.named(origin))
    report = log.verify()
    assert not report.tampered, list(map(str, report.findings))
    assert wrong_with(lines(), str(log.key.verifier)) is None
    disable_triggers()
    last = log.held[-1]
    execute("UPDATE audit_checkpoint SET note = %s WHERE log = 7", by(log.key.named(last.origin), last))
    assert "retired key" in only(log.verify(held=[])).detail
    assert "had handed over to another before" in wrong_with(lines(), str(log.key.verifier))


def test_the_logs_of_the_tamper_test_are_rotated(db):
    log = make_log(random.Random(2), 30, 4)
    assert log.retired_at is not None
    assert not log.verify().tampered
