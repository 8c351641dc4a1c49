"""Witnesses: every checkpoint is sent with its proof, cosignatures are kept, and what is not consistent is refused."""

import base64
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import checkpoint_store, cosigner, proofs, tile_store
from audit.checkpoint import open_checkpoint
from audit.checkpoint_workers import workers
from audit.checkpointer import Checkpointer
from audit.cosigner import Cosigner
from audit.models import Cosignature
from audit.signed_note import COSIGNATURE, MalformedNote, Note, SigningKey, Unverified, VerifierKey
from audit.witness import Witness, cosignature, submission, told_size
from taskpulse import metrics
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from tests.api_client import api
from tests.recording import grow_log
from tests.test_checkpointer import KEY, OTHER, clear_log, every_entry, sizes, start  # noqa: F401 (fixtures)
from tests.test_proofs import MOST, ROOTS, read
from tests.test_tiles import edit
from tests.witness import Witness as Listening
from tests.witness import roots_of
from tests.wrong_settings import wrong

VKEY = str(KEY.verifier)


@pytest.fixture
def witness():
    """A witness that knows the log, and where it listens."""
    listening = Listening("w.example.org/1", VKEY)
    with listening.listening() as url:
        listening.url = url
        yield listening


@pytest.fixture
def worker(start):  # noqa: F811 (a fixture)
    return start()


def cosigner_of(witness, worker) -> Cosigner:
    return Cosigner(Witness.parse(f"{witness.vkey} {witness.url}"), lambda: worker.newest)


def sign(worker, more: int) -> None:
    grow_log(more)
    worker.step()


def cosigned() -> list[int]:
    return list(Cosignature.objects.order_by("size").values_list("size", flat=True))


def old_lines(witness) -> list[str]:
    return [body.split(b"\n")[0].decode() for body in witness.bodies]


def refused(witness) -> float | None:
    return metrics.WITNESS_REFUSED.value(witness.name)


def test_signatures_of_other_kinds_beside_its_own_are_ignored(worker, witness):
    """As of a witness that cosigns by ML-DSA-44 too (tlog-cosignature): of 2,432 bytes each, by keys that are not known."""
    sign(worker, 1)
    own = witness.cosign(checkpoint_store.latest(1).note)
    others = [f"— {witness.name} {base64.b64encode(bytes([number]) * 2_432).decode()}\n".encode() for number in range(90)]
    witness.answer = 200, {}, b"".join([*others[:45], own, *others[45:]])
    assert len(witness.answer[2]) > 290_000
    cosigner_of(witness, worker).step()
    assert (cosigned(), refused(witness)) == ([1], 0)
    assert checkpoint_store.latest(1).cosigned.endswith(own)
    assert b"\n".join(others[:1]).strip() not in checkpoint_store.latest(1).cosigned


def test_each_checkpoint_is_cosigned_and_served_with_the_cosignature(worker, witness):
    of = cosigner_of(witness, worker)
    of.step()
    assert witness.bodies == []  # nothing is signed
    for more in (1, 1, 5, 300, 1):
        sign(worker, more)
        of.step()
        stored = checkpoint_store.latest(1)
        assert witness.holds(stored.cosigned)
        assert witness.seen["taskpulse/audit"] == (stored.size, open_checkpoint(stored.note, [KEY.verifier])[0].root)
        assert metrics.WITNESS_SIZE.value(witness.name) == stored.size
    assert cosigned() == sizes() == [1, 2, 7, 307, 308]
    assert old_lines(witness) == ["old 0", "old 1", "old 2", "old 7", "old 307"]
    assert witness.holds(api("auditor").get("/audit/checkpoint").content)
    assert witness.holds(api("auditor").get("/audit/checkpoint/2").content)
    _, signatures = open_checkpoint(stored.cosigned, [KEY.verifier, VerifierKey.parse(witness.vkey)])
    assert len(signatures) == 2
    of.step()
    assert len(witness.bodies) == 5  # nothing new


def test_the_next_process_goes_on_where_the_last_one_ended(start, witness):  # noqa: F811 (a fixture)
    worker = start()
    sign(worker, 3)
    cosigner_of(witness, worker).step()
    sign(worker, 2)
    worker = start()
    worker.step()  # signs nothing
    cosigner_of(witness, worker).step()
    assert old_lines(witness) == ["old 0", "old 3"]
    assert cosigned() == [3, 5]


def sent_behind_its_back(witness) -> None:
    """The witness cosigns the newest checkpoint, and nobody here hears of it."""
    stored, (old, _) = checkpoint_store.latest(1), witness.seen.get("taskpulse/audit", (0, b""))
    path = proofs.consistency(old, stored.size, tile_store.nodes(1, stored.size))
    assert witness.add_checkpoint(submission(old, path, stored.note))[0] == 200
    witness.bodies.clear()


def test_a_word_that_was_lost_on_the_way_is_asked_for_again(worker, witness):
    sign(worker, 3)
    sent_behind_its_back(witness)
    of = cosigner_of(witness, worker)
    of.step()  # it has cosigned this very checkpoint
    assert old_lines(witness) == ["old 0", "old 3"]
    assert cosigned() == [3]
    sign(worker, 4)
    sent_behind_its_back(witness)
    sign(worker, 5)
    of.step()  # and now an earlier one
    assert old_lines(witness) == ["old 3", "old 7"]
    assert cosigned() == [3, 12]
    assert refused(witness) == 0


def test_a_witness_that_is_down_delays_nothing_and_gets_the_newest_later(worker, witness, caplog):
    caplog.set_level("INFO")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        down = Listening("down.example.org", VKEY)
        down.url = f"http://127.0.0.1:{port}/w"
        of, other = cosigner_of(down, worker), cosigner_of(witness, worker)
        for more in (1, 2, 3):
            sign(worker, more)
            assert not of.step()
            assert of.pause > 0
            other.step()
    assert sizes() == cosigned() == [1, 3, 6]
    assert metrics.CHECKPOINT_SIZE.value("published") == 6
    with down.listening(port):
        of.step()
    assert down.holds(checkpoint_store.latest(1).cosigned)
    assert old_lines(down) == ["old 0"]
    assert caplog.text.count("the witness down.example.org failed") == 1
    assert "the witness down.example.org works again after 3 failures" in caplog.text


def test_a_witness_that_hangs_is_given_up(worker, monkeypatch):
    monkeypatch.setattr(cosigner, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        down = Listening("silent.example.org", VKEY)
        down.url = f"http://127.0.0.1:{silent.getsockname()[1]}/w"
        of = cosigner_of(down, worker)
        sign(worker, 1)
        of.step()
        assert of.pause > cosigner.POLL / 2
        assert cosigned() == []


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (4, "it has cosigned 6 entries, and the log's newest checkpoint has 4: entries were lost"),
        (6, "the 6 entries that it has cosigned are not the first 6 of this log: the log was changed"),
        (7, "the checkpoint of 7 entries does not contain the 6 that it has cosigned: the log was changed"),
    ],
)
def test_a_log_that_was_made_anew_is_not_cosigned(start, witness, settings, caplog, count, said):  # noqa: F811 (a fixture)
    """With its checkpoints, by whoever has the database, the broker and the signing key: only the witness remembers."""
    worker = start()
    sign(worker, 6)
    cosigner_of(witness, worker).step()
    for table in ("audit_checkpoint", "audit_cosignature"):
        edit(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        edit(f"DELETE FROM {table}")
    clear_log()
    settings.KAFKA_CHECKPOINT_TOPIC += "-wiped"
    worker = start()
    sign(worker, count)
    assert sizes() == [count]
    of = cosigner_of(witness, worker)
    for _ in range(2):
        of.step()
        assert of.pause == cosigner.REFUSED_POLL
    assert cosigned() == []
    assert refused(witness) == 1
    assert caplog.text.count(said) == 1


def test_a_witness_that_does_not_know_the_log_or_its_key(start, witness, caplog):  # noqa: F811 (a fixture)
    witness.vkeys = ["another/log+12345678+AQ=="]
    worker = start()
    sign(worker, 1)
    of = cosigner_of(witness, worker)
    of.step()
    assert "it does not know the log's origin (404): give it the log's verifier key" in caplog.text
    witness.vkeys = [str(OTHER.verifier)]
    of.step()
    assert "it does not know the key that signs (403)" in caplog.text
    witness.vkeys = [VKEY]
    of.step()
    assert cosigned() == [1]
    # A key that hands over signs that checkpoint too: whoever knows the old one goes on cosigning until then.
    worker = start(OTHER, previous=KEY)
    sign(worker, 1)
    of = cosigner_of(witness, worker)
    of.step()
    assert cosigned() == [1, 2]
    sign(worker, 1)
    of.step()
    assert cosigned() == [1, 2]
    witness.vkeys = [VKEY, str(OTHER.verifier)]
    of.step()
    assert cosigned() == [1, 2, 3]


def test_what_is_no_cosignature_is_not_kept(worker, witness, caplog):
    sign(worker, 2)
    of, note = cosigner_of(witness, worker), checkpoint_store.latest(1).note
    true, stranger = witness.cosign(note), Listening("w.example.org/1").cosign(note)
    longer = witness.cosign(note + b"more\n\n")  # of a text that ends in "more"
    for answer in (
        (200, {}, b""), (200, {}, b"OK\n"), (200, {}, stranger), (200, {}, true[:-9] + b"AAAAAAA=\n"),
        (200, {}, b"more\n\n" + longer), (200, {}, true * 101), (200, {}, true * 4_000),
        (204, {}, true), (302, {"Location": witness.url}, b""),
        (409, {}, b"soon\n"), (409, {}, b"0\n"), (409, {}, b"-1\n"), (400, {}, b""),
    ):  # fmt: skip
        witness.answer = answer
        of.step()
        assert of.pause == cosigner.REFUSED_POLL, answer
        assert refused(witness) == 1
        assert cosigned() == []
    assert caplog.text.count("the witness w.example.org/1 does not cosign") > 5
    for status in (429, 500, 503):  # it may do better soon
        witness.answer = (status, {}, b"")
        of.step()
        assert of.pause < cosigner.REFUSED_POLL
    witness.answer = (200, {}, stranger + true)
    of.step()
    assert checkpoint_store.latest(1).cosigned == note + true
    assert refused(witness) == 0


def test_only_the_process_that_signs_sends_anything(worker, witness):
    sign(worker, 1)
    standby = Checkpointer(KEY)
    assert standby.newest is None
    cosigner_of(witness, standby).step()
    assert witness.bodies == []


def test_a_process_that_signs_no_more_tells_of_no_witness(worker, witness):
    of, another = cosigner_of(witness, worker), "w.example.org/another"
    sign(worker, 3)
    of.step()
    for reading, value in ((metrics.WITNESS_SIZE, 3), (metrics.WITNESS_REFUSED, 0)):
        reading.set(7, another)
        assert reading.value(witness.name) == value
    worker.newest = None
    of.step()
    for reading in (metrics.WITNESS_SIZE, metrics.WITNESS_REFUSED):
        assert (reading.value(witness.name), reading.value(another)) == (None, 7)
        reading.forget(another)
    worker.newest = (1, 3)
    of.step()
    assert metrics.WITNESS_SIZE.value(witness.name) == 3
    assert len(witness.bodies) == 1


def test_each_witness_has_a_worker_of_its_own(settings):
    first, second = (Listening(f"w.example.org/{number}") for number in (1, 2))
    settings.AUDIT_SIGNING_KEY = KEY
    settings.AUDIT_WITNESSES = [Witness.parse(f"{each.vkey} https://{each.name}") for each in (first, second)]
    assert [name for name, _ in workers()] == ["checkpointer", "cosigner of w.example.org/1", "cosigner of w.example.org/2"]


def test_the_setting_takes_witnesses_alone(tmp_path):
    def given(value: str) -> Environment:
        return Environment(tmp_path, DECLARED, {"AUDIT_WITNESSES": value})

    key = Listening("w.example.org").vkey
    known = given(f"{key}  https://w.example.org/a/ , {key} http://[::1]:8080,")["AUDIT_WITNESSES"]
    assert [str(each) for each in known] == [f"{key} https://w.example.org/a", f"{key} http://[::1]:8080"]
    for value in (
        key, "https://w.example.org", f"{key} w.example.org", f"{key} ftp://w.example.org", f"{key} https://u:p@w.example.org",
        f"{key} https://w.example.org?a=b", f"{key} https://a https://b", f"{VKEY} https://w.example.org", f"{key[:-4]} https://w",
        f"{key} https://w.example.org, nothing",
    ):  # fmt: skip
        (problem,) = wrong(given(value))
        assert problem.startswith("AUDIT_WITNESSES: expected a comma-separated list, each `NAME+ID+KEY https://HOST/PATH`"), value


# The bytes.


def test_the_specifications_request():
    path = ["PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=", "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk="]
    body = submission(20852014, [base64.b64decode(line) for line in path], b"example.com/behind-the-sofa\n")
    assert body.decode().split("\n") == ["old 20852014", *path, "", "example.com/behind-the-sofa", ""]
    assert submission(0, [], b"note\n") == b"old 0\n\nnote\n"
    with pytest.raises(ValueError, match="at most 63"):
        submission(1, [bytes(32)] * 64, b"")


@pytest.mark.parametrize(
    ("answer", "size"), [(b"0\n", 0), (b"17\n", 17), (b"17", 17), (b"", None), (b"017\n", None), (b"1 7", None)]
)
def test_the_size_in_a_conflict(answer, size):
    assert told_size(answer) == size


def test_a_cosignature_of_the_past_holds():
    key = SigningKey("w.example.org", bytes(32), COSIGNATURE)
    note = bytes(Note("a\n1\nb\n", (KEY.sign("a\n1\nb\n"),)))
    line = key.sign("a\n1\nb\n", 1679315147).line()
    assert cosignature(note, line.encode(), key.verifier).timestamp == 1679315147
    for wrong_answer in (b"\n" + line.encode(), key.sign("a\n2\nb\n").line().encode(), b""):
        with pytest.raises((MalformedNote, Unverified)):
            cosignature(note, wrong_answer, key.verifier)


# Consistency proofs before an implementation that is not ours.


@given(st.integers(1, MOST), st.data())
def test_every_proof_leads_the_witness_to_both_roots(new, data):
    old = data.draw(st.integers(1, new))
    path = proofs.consistency(old, new, read)
    assert roots_of(old, new, ROOTS[old], path) == (ROOTS[old], ROOTS[new])
    for other in ([*path, bytes(32)], path[:-1]) if path else ([bytes(32)],):
        with pytest.raises(ValueError, match="too"):
            roots_of(old, new, ROOTS[old], other)


def test_every_pair_of_small_trees_leads_the_witness_to_both_roots():
    for new in range(1, 65):
        for old in range(1, new + 1):
            assert roots_of(old, new, ROOTS[old], proofs.consistency(old, new, read)) == (ROOTS[old], ROOTS[new])
