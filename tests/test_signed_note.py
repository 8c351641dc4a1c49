"""Signed notes, keys, checkpoints and cosignatures against the vectors of the C2SP texts and of Go's sumdb/note."""

import base64
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, open_checkpoint
from audit.signed_note import (
    COSIGNATURE,
    MalformedKey,
    MalformedNote,
    Note,
    Signature,
    SigningKey,
    Unverified,
    VerifierKey,
    cosigned_message,
    is_key_name,
)

# golang.org/x/mod/sumdb/note, note_test.go.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
BY_PETER = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
BY_ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
# The examples of signed-note, tlog-checkpoint and tlog-cosignature; their public keys are not given there.
QUASIMODO = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""

EM_SPACE = "\u2003"

peter, enoch = VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)


def signed(*signatures: str, text: str = TEXT) -> Note:
    return Note.parse(f"{text}\n{''.join(signatures)}".encode())


def names(signatures) -> list[str]:
    return [signature.name for signature in signatures]


def test_a_signature_is_the_reference_implementations():
    assert bytes(Note(TEXT, (SigningKey.parse(PETERS_SECRET).sign(TEXT),))) == f"{TEXT}\n{BY_PETER}".encode()
    assert SigningKey.parse(PETERS_SECRET).secret() == PETERS_SECRET
    assert str(SigningKey.parse(PETERS_SECRET).verifier) == PETER


def test_only_signatures_by_known_keys_count():
    note = signed(BY_PETER, BY_ENOCH)
    assert names(note.verified([peter])) == ["PeterNeumann"]
    assert names(note.verified([enoch, peter])) == ["PeterNeumann", "EnochRoot"]
    with pytest.raises(Unverified, match="no signature by a known key"):
        note.verified([])
    with pytest.raises(Unverified):
        signed(BY_ENOCH).verified([peter])
    assert names(signed(BY_PETER, BY_PETER, BY_ENOCH, BY_ENOCH).verified([peter, enoch])) == ["PeterNeumann", "EnochRoot"]


def test_a_wrong_signature_of_a_known_key_spoils_the_note():
    bad = Signature("PeterNeumann", peter.key_id, bytes(64)).line()
    for lines in ([bad], [BY_PETER, bad], [bad, BY_ENOCH]):
        with pytest.raises(Unverified, match=r"PeterNeumann\+c74f20a3 does not hold"):
            signed(*lines).verified([peter, enoch])
    assert names(signed(bad, BY_ENOCH).verified([enoch])) == ["EnochRoot"]


def test_a_known_name_with_another_id_is_another_key():
    other = BY_PETER.replace("x08go", "xxxxx")
    with pytest.raises(Unverified, match="no signature by a known key"):
        signed(other).verified([peter])
    with pytest.raises(Unverified, match="no signature by a known key"):
        signed(BY_PETER.replace("PeterNeumann", "CarmenSandiego")).verified([peter])


def test_the_text_is_what_is_signed():
    for text in (TEXT.replace("answer", "Answer"), TEXT + "\n", "\n" + TEXT, TEXT[:-2] + "\n"):
        with pytest.raises(Unverified):
            signed(BY_PETER, text=text).verified([peter])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        f"{TEXT}{BY_PETER}".encode(),
        f"{TEXT}\n{BY_PETER[:-1]}".encode(),
        f"\x01{TEXT}\n{BY_PETER}".encode(),
        f"{TEXT}\r\n\n{BY_PETER}".encode(),
        f"{TEXT}\n{BY_PETER}".encode("utf-16"),
        b"\xff" + f"{TEXT}\n{BY_PETER}".encode(),
        f"{TEXT}\n{BY_PETER}Unexpected line.\n".encode(),
        f"{TEXT}\n{BY_PETER}\n".encode(),
        f"{TEXT}\n{BY_PETER.replace('—', '-')}".encode(),
        f"{TEXT}\n{BY_PETER.replace('PeterNeumann', 'Bad Name')}".encode(),
        f"{TEXT}\n{BY_PETER.replace('PeterNeumann', 'Bad+Name')}".encode(),
        f"{TEXT}\n{BY_PETER.replace('PeterNeumann', 'Bad' + EM_SPACE + 'Name')}".encode(),
        f"{TEXT}\n{BY_PETER.replace('PeterNeumann', '')}".encode(),
        f"{TEXT}\n— PeterNeumann x08go!!!\n".encode(),
        f"{TEXT}\n— PeterNeumann x08gow==\n".encode(),  # an id and no signature
        f"{TEXT}\n{BY_PETER * 101}".encode(),
        b"a" * 1_000_000 + f"\n\n{BY_PETER}".encode(),
    ],
)
def test_what_is_no_note(raw):
    with pytest.raises(MalformedNote):
        Note.parse(raw)


def test_a_note_may_hold_empty_lines_and_many_signatures():
    note = Note.parse(QUASIMODO.encode())
    assert note.text.endswith("raggio di sole:\n\ned è subito sera.\n")
    assert names(note.signatures) == ["quasimodo.example/salvatore"]
    assert bytes(note) == QUASIMODO.encode()
    assert len(signed(*[BY_ENOCH] * 16).signatures) == 16


@pytest.mark.parametrize("parse", [VerifierKey.parse, SigningKey.parse])
def test_no_part_of_a_key_and_no_mangled_key_is_one(parse):
    whole = PETER if parse == VerifierKey.parse else PETERS_SECRET
    parts = [whole[i:j] for i in range(len(whole) + 1) for j in range(i, len(whole) + 1) if (i, j) != (0, len(whole))]
    mangled = [whole[:i] + chr(ord(whole[i]) + 1) + whole[i + 1 :] for i in range(len(whole))]
    for text in parts + mangled:
        with pytest.raises(MalformedKey):
            parse(text)


def test_a_key_of_another_length_or_kind_is_refused_though_its_id_fits():
    for text in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ):
        with pytest.raises(MalformedKey):
            VerifierKey.parse(text)


def test_no_error_and_no_repr_shows_a_secret():
    secret = PETERS_SECRET.rpartition("+")[2]
    for text in (PETERS_SECRET + "A", PETERS_SECRET.replace("c74f", "c74e"), PETERS_SECRET.replace("PRIVATE", "private")):
        with pytest.raises(MalformedKey) as caught:
            SigningKey.parse(text)
        assert secret not in str(caught.value)
        assert secret[:12] not in str(caught.value)
    assert secret not in repr(SigningKey.parse(PETERS_SECRET))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\u00a0b", "a\u3000b", "a\nb", "a\x00b", "\x85"])
def test_names_that_no_key_may_bear(name):
    assert not is_key_name(name)
    with pytest.raises(MalformedKey):
        SigningKey(name, bytes(32))


lines = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=30)
key_names = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=1, max_size=20).filter(is_key_name)


@given(st.lists(lines, max_size=5), key_names, st.binary(min_size=32, max_size=32), st.sampled_from([1, 4]))
def test_any_note_comes_back_as_it_was(texts, name, seed, algorithm):
    text = "".join(f"{line}\n" for line in texts) or "\n"
    key = SigningKey(name, seed, algorithm)
    note = Note(text, (key.sign(text, at=1),))
    read = Note.parse(bytes(note))
    assert read == note
    assert read.verified([VerifierKey.parse(str(key.verifier))]) == note.signatures
    assert SigningKey.parse(key.secret()).verifier == key.verifier


def test_an_unsignable_text():
    for text in ("abc", "", "a\tb\n", "a\r\n"):
        with pytest.raises(MalformedNote):
            SigningKey.parse(PETERS_SECRET).sign(text)


# Checkpoints.


def test_the_specifications_checkpoint():
    note = Note.parse(SOFA.encode())
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert base64.b64encode(checkpoint.root) == b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    assert checkpoint.text == note.text
    assert bytes(note) == SOFA.encode()
    log, witness = note.signatures
    assert len(log.value) == 64
    assert witness.timestamp == 1679315147  # the time that tlog-cosignature gives


def test_the_specifications_cosigned_message():
    text = Note.parse(SOFA.encode()).text
    assert cosigned_message(text, 1679315147).decode() == (
        "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "a\n1\n", "a\n1\n" + "A" * 43 + "=", "\n1\n" + "A" * 43 + "=\n", "a\n01\n" + "A" * 43 + "=\n",
        "a\n-1\n" + "A" * 43 + "=\n", "a\n+1\n" + "A" * 43 + "=\n", "a\n١\n" + "A" * 43 + "=\n", "a\n \n" + "A" * 43 + "=\n",
        "a\n9223372036854775808\n" + "A" * 43 + "=\n", "a\n1\n" + "A" * 40 + "\n", "a\n1\n" + "A" * 42 + "B=\n", "a\n1\nAA==\n",
        "a\n1\n" + "A" * 43 + "=\n\n", "a\n1\n" + "A" * 43 + "=\n\nx\n",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint(text):
    with pytest.raises(MalformedNote):
        Checkpoint.parse(text)


@given(lines.filter(bool), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(lines.filter(bool), max_size=3))
@example("taskpulse/audit", 0, hashlib.sha256().digest(), [])
def test_any_checkpoint_comes_back_as_it_was(origin, size, root, extensions):
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.parse(checkpoint.text) == checkpoint


def test_a_checkpoint_counts_by_the_signature_of_its_own_log():
    log, other = SigningKey.generate("example.org/log"), SigningKey.generate("example.org/other")
    witness = SigningKey.generate("example.org/witness", COSIGNATURE)
    posing = SigningKey.generate("example.org/log", COSIGNATURE)
    checkpoint = Checkpoint("example.org/log", 7, bytes(32))

    def note(*keys) -> bytes:
        return bytes(Note(checkpoint.text, tuple(key.sign(checkpoint.text) for key in keys)))

    keys = [key.verifier for key in (log, other, witness, posing)]
    opened, signatures = open_checkpoint(note(log, witness, other), keys)
    assert opened == checkpoint
    assert names(signatures) == ["example.org/log", "example.org/witness", "example.org/other"]
    for wrong in (note(other), note(witness), note(posing)):
        with pytest.raises(Unverified):
            open_checkpoint(wrong, keys)
    with pytest.raises(Unverified):
        open_checkpoint(note(log), [SigningKey.generate("example.org/log").verifier])


def test_a_cosignature_is_of_its_time_and_kind():
    witness = SigningKey.generate("example.org/witness", COSIGNATURE)
    text = Checkpoint("a", 1, bytes(32)).text
    signature = witness.sign(text, at=1679315147)
    assert signature.timestamp == 1679315147
    witness.verifier.verify(text, signature.value)
    later = (1679315148).to_bytes(8, "big") + signature.value[8:]
    beyond = SigningKey("w", bytes(32), COSIGNATURE)
    for value in (later, signature.value[8:], b"", bytes(72)):
        with pytest.raises(Unverified):
            witness.verifier.verify(text, value)
    with pytest.raises(Unverified, match="beyond"):
        beyond.verifier.verify(text, beyond.sign(text, at=2**63).value)
    # The same key under both kinds has two ids, and a signature of one kind is none of the other.
    plain = VerifierKey(witness.verifier.name, 1, witness.verifier.public)
    assert plain.key_id != witness.verifier.key_id
    with pytest.raises(Unverified):
        plain.verify(text, signature.value[8:])
