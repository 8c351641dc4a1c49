#!/usr/bin/env python3
"""Checks entries of a TaskPulse audit log on a machine that has never seen the service.

    taskpulse_verify.py --key KEY bundle.jsonl          a bundle, as `manage.py export_audit` and /api/audit/export make it
    taskpulse_verify.py --key KEY entry.tlog-proof --event event.json     one entry with its proof

It needs Python 3.11 or newer and the package `cryptography`, and nothing of TaskPulse: this file alone. KEY is the log's
verifier key (NAME+ID+BASE64) or a file that holds it; get it from somebody other than who gave you the bundle.

Exit codes: 0 all that was given is sound, 1 something is not what was recorded, 2 it could not be checked, 3 sound, but entries
that a kept checkpoint was signed for are lost, and the log says so itself.

Formats: docs/leaf-record.md of TaskPulse; C2SP signed-note, tlog-checkpoint, tlog-cosignature and tlog-proof (c2sp.org);
RFC 9162 §2.1 (Merkle tree); RFC 8785 (JSON canonicalization, for documents of text, whole numbers, booleans and null).
"""

import argparse
import base64
import binascii
import json
import re
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from pathlib import Path

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    print("could not check: the package `cryptography` is missing (python -m pip install cryptography)", file=sys.stderr)
    sys.exit(2)

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
BUNDLE, RECORD = "taskpulse-bundle-v1", "taskpulse-leaf-v1"
ELEMENTS = (
    "form", "origin", "seq", "event_id", "event_type", "subject_type", "subject_id", "version", "task_id", "actor_id",
    "occurred_at", "processed_at", "topic", "partition", "offset", "digest",
)  # fmt: skip
REDACTED, OPENED = "audit.redacted", "audit.log.opened"
ED25519, COSIGNATURE = 1, 4


class Wrong(Exception):
    """Something is not what was recorded."""


class CannotCheck(Exception):
    """It cannot be said."""


def load(text: str | bytes):
    """JSON. Raises ValueError, and Wrong for a name that stands twice: other readers would take the other value."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Wrong("a JSON object has a member twice")
    return found


def decode(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Wrong(f"{what} is not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise Wrong(f"{what} is not in the one spelling of base64")
    return raw


# Signed notes and checkpoints.


@dataclass(frozen=True)
class Key:
    name: str
    algorithm: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "Key":
        name, _, rest = text.strip().partition("+")
        written, _, encoded = rest.partition("+")
        try:
            raw = decode(encoded, "the key")
        except Wrong:
            raw = b""
        if not name or len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):
            raise CannotCheck("--key and --witness: expected a verifier key NAME+ID+BASE64 of Ed25519, or a file that holds one")
        key = cls(name, raw[0], raw[1:])
        if key.id.hex() != written:
            raise CannotCheck(f"the id of the key of {name} is not that of its key")
        return key

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public).digest()[:4]

    def named(self, name: str) -> "Key":
        return Key(name, self.algorithm, self.public)

    def signed(self, text: str, signature: bytes) -> bool:
        message = text.encode()
        if self.algorithm == COSIGNATURE:
            seconds = int.from_bytes(signature[:8], "big")
            message, signature = f"cosignature/v1\ntime {seconds}\n".encode() + message, signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes
    note: str


class Keys:
    """The log's keys: those given, and those to which they hand over. A key counts for the logs that succeeded to its own too,
    under their names. A note is checked once."""

    def __init__(self, log: list[Key], witnesses: list[Key]):
        self.log, self.witnesses = list(log), witnesses
        self._known: dict[str, Checkpoint] = {}
        self._closed: dict[str, Checkpoint] = {}
        # The first entry of each log that is known; and by the public key where it handed over, and at which size.
        self.begins: dict[str, int] = {}
        self._retired: dict[bytes, tuple[str, int]] = {}

    def close(self, checkpoint: Checkpoint) -> None:
        """A log ended with this tree, as its successor's first entry says; that was never signed by itself."""
        self._closed[checkpoint.note] = checkpoint

    def open(self, note: str) -> Checkpoint:
        """Raises Wrong unless a known key of the log signed the note, and each witness that was asked for."""
        if note in self._closed:
            return self._closed[note]
        if note not in self._known:
            self._known = {note: self._open(note)}
        return self._known[note]

    def _open(self, note: str) -> Checkpoint:
        head, separator, tail = note.rpartition("\n\n")
        text = head + "\n"
        lines = text.split("\n")[:-1]
        if (
            not separator
            or not tail.endswith("\n")
            or len(lines) < 3
            or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1], re.ASCII)
        ):
            raise Wrong("the checkpoint is no signed note of origin, size and root")
        root = decode(lines[2], "the checkpoint's root")
        signatures: dict[tuple[str, bytes], bytes] = {}
        for line in tail[:-1].split("\n"):
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            raw = decode(encoded, "a signature")
            if dash != "—" or len(raw) < 5:
                raise Wrong("a signature line of the checkpoint is malformed")
            signatures.setdefault((name, raw[:4]), raw[4:])
        signers = self._signers(lines[0], text, signatures)
        if not signers:
            raise Wrong(f"the checkpoint of {lines[1]} entries bears no signature by a key of {lines[0]} that you gave")
        if all(self._is_retired(key, lines[0], int(lines[1])) for key in signers):
            raise Wrong(f"the checkpoint of {lines[1]} entries is signed by a key alone that had handed over to another before")
        for witness in self.witnesses:
            if not self._holds(witness, text, signatures):
                raise Wrong(f"the checkpoint of {lines[1]} entries bears no cosignature by {witness.name}")
        for line in lines[3:]:
            if line.startswith("next-key "):
                self._hand_over(lines[0], int(lines[1]), signers, Key.parse(line.removeprefix("next-key ")))
        return Checkpoint(lines[0], int(lines[1]), root, note)

    def _signers(self, origin: str, text: str, signatures: dict) -> list[Key]:
        """The keys of the log that signed, as they were given or learnt. Raises Wrong where a signature does not hold."""
        found = []
        for key in self.log:
            its = key.named(origin) if origin.startswith(f"{key.name}/") else key
            if self._holds(its, text, signatures) and its.name == origin and its.algorithm == ED25519:
                found.append(key)
        return found

    def _is_retired(self, key: Key, origin: str, size: int) -> bool:
        """A key that handed over may have been stolen: above that, and in logs that began later, it counts for nothing."""
        where, at = self._retired.get(key.public, (None, 0))
        if where is None or where == origin:
            return where is not None and size > at
        return where in self.begins and origin in self.begins and self.begins[origin] > self.begins[where]

    def _hand_over(self, origin: str, size: int, signers: list[Key], successor: Key) -> None:
        """To a key that bears the log's name; the same secret signs the logs that come after it, under theirs."""
        old = [key for key in signers if key.public != successor.public]
        for key in (successor, *(successor.named(key.name) for key in old)):
            self.log += [] if key in self.log else [key]
        for key in old:
            self._retired.setdefault(key.public, (origin, size))

    def _holds(self, key: Key, text: str, signatures: dict) -> bool:
        signature = signatures.get((key.name, key.id))
        if signature is None:
            return False
        if not key.signed(text, signature):
            raise Wrong(f"the signature by {key.name}+{key.id.hex()} on the checkpoint does not hold")
        return True


# The tree.


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root_of(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """RFC 9162 §2.1.3.2. Raises Wrong for a path of another length."""
    if not 0 <= index < size:
        raise Wrong(f"a tree of {size} leaves has no leaf {index}")
    number, last, head = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Wrong("the inclusion proof is too long")
        if number & 1 or number == last:
            head = node(sibling, head)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            head = node(head, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise Wrong("the inclusion proof is too short")
    return head


@dataclass
class Tree:
    """The right edge of a tree that grows leaf by leaf."""

    size: int = 0
    roots: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> None:
        complete = self.size
        while complete & 1:
            leaf, complete = node(self.roots.pop(), leaf), complete >> 1
        self.roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.roots:
            return sha256().digest()
        head = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            head = node(left, head)
        return head


# One entry.


@dataclass(frozen=True)
class Proved:
    """An entry whose leaf is in the tree of a checkpoint that was signed."""

    checkpoint: Checkpoint
    index: int
    leaf: bytes
    record: dict


def check_proof(text: str, keys: Keys) -> Proved:
    """A C2SP tlog-proof whose extra data are the leaf record. Raises Wrong."""
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines.pop(0) != PROOF_HEADER or not lines or not lines[0].startswith("extra "):
        raise Wrong(f"the proof is not {PROOF_HEADER} with the leaf record as its extra data")
    raw = decode(lines.pop(0).removeprefix("extra "), "the leaf record")
    written = re.fullmatch(r"index (0|[1-9][0-9]{0,18})", lines.pop(0) if lines else "", re.ASCII)
    path = [decode(line, "the inclusion proof") for line in lines]
    if written is None or any(len(item) != 32 for item in path):
        raise Wrong("the proof's index or hashes are malformed")
    checkpoint, leaf = keys.open(note), sha256(b"\x00" + raw).digest()
    if root_of(int(written[1]), checkpoint.size, leaf, path) != checkpoint.root:
        raise Wrong("the entry is not in the tree that the checkpoint states: record, proof or checkpoint is another")
    return Proved(checkpoint, int(written[1]), leaf, read_record(raw, checkpoint))


def read_record(raw: bytes, checkpoint: Checkpoint) -> dict:
    try:
        elements = load(raw)
    except (ValueError, RecursionError):
        elements = None
    if not isinstance(elements, list) or len(elements) != len(ELEMENTS) or elements[0] != RECORD:
        raise Wrong(f"the leaf is no record of the form {RECORD}")
    record = dict(zip(ELEMENTS, elements, strict=True))
    if record["origin"] != checkpoint.origin:
        raise Wrong(f"the leaf is of the log {record['origin']}, the checkpoint of {checkpoint.origin}")
    return record


ATTRIBUTES = {"event_id": "id", "event_type": "type", "task_id": "taskid", "actor_id": "actorid", "occurred_at": "time"}


def check_event(event, record: dict) -> str | None:
    """The event against the digest in its record; the id of the event that accounts for it if it is erased. Raises Wrong."""
    if isinstance(event, dict) and event.keys() == {"redacted"}:
        return str(event["redacted"])
    try:
        payload = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        payload = b""
    if sha256(payload).hexdigest() != record["digest"]:
        raise Wrong("the event is not the one that was recorded: its SHA-256 is another than the record's")
    said = {name: event.get(attribute) for name, attribute in ATTRIBUTES.items()}
    said |= {"subject": event.get("subject"), "version": event.get("sequence")}
    expected = {name: record[name] for name in ATTRIBUTES} | {"subject": f"{record['subject_type']}/{record['subject_id']}"}
    expected["version"] = f"{record['version']:020d}" if type(record["version"]) is int else None
    other = [name for name in said if said[name] != expected[name]]
    if other:
        raise Wrong(f"record and event differ in {', '.join(other)}")
    return None


def check_account(document: dict, keys: Keys) -> tuple[Proved, dict]:
    """An entry that stands by itself, with its event. Raises Wrong."""
    if "closed" in document:
        check_closed(document["closed"], keys)
    proved = check_proof(document["proof"], keys)
    seq, event = document["seq"], document["event"]
    try:
        erased = check_event(event, proved.record) is not None
    except Wrong as error:
        raise Wrong(f"entry {seq}: {error}") from None
    if seq != proved.record["seq"] or erased:
        raise Wrong(f"entry {seq}: its record is of entry {proved.record['seq']}, or it is erased")
    return proved, event


def check_closed(document: dict, keys: Keys) -> dict:
    """The first entry of a successor, which says with what tree the log before was closed; what it says. Raises Wrong."""
    proved, event = check_account(document, keys)
    if (
        proved.record["event_type"] != OPENED
        or proved.index != 0
        or event["data"]["audit.log"]["origin"] != proved.record["origin"]
    ):
        raise Wrong(f"entry {document['seq']} is not the one that opens a log")
    told = event["data"]["audit.log"]["predecessor"]
    root = decode(told["root"], "the root of the log that was closed")
    keys.close(Checkpoint(told["origin"], told["size"], root, f"{told['origin']}\n{told['size']}\n{told['root']}\n"))
    return told


# A bundle.


class Bundle:
    """Reads bundles line by line, one after the other; `finish` in the end. Of what it read it keeps a tree's edge, of one task's
    bundle each subject's version, the events that account for erasures, and the numbers of entries whose event is to come."""

    def __init__(self, keys: Keys, held: list[Checkpoint]):
        self.keys, self.held = keys, held
        self.entries = self.erased = 0
        self.first = self.last = None
        self.checkpoint: Checkpoint | None = None
        self.selection: dict = {}
        # Of each log the line with the largest tree.
        self.logs: dict[str, dict] = {}
        self.ended = False
        self.tree: Tree | None = None
        self.compared: set[tuple[str, int]] = set()
        # By the event's id: which entries it must account for, and what it is known to erase.
        self.unaccounted: dict[str, list[int]] = {}
        self.accounts: dict[str, tuple[int, list]] = {}
        # What the successors of closed logs say of them; and which kept checkpoints were signed for what they account for as lost.
        self.closings: dict[str, dict] = {}
        self.lost: set[tuple[str, int]] = set()
        # Those of which the maker says that no checkpoint covers them yet.
        self.pending: set[str] = set()
        self._log: dict = {}
        self._from_the_first = False
        # Where the next line `log` has to go on, and the next entry of a bundle of all entries.
        self._next: int | None = None
        self._versions: dict[str, int] = {}

    def read(self, lines) -> None:
        for number, raw in enumerate(lines, start=1):
            try:
                self._line(raw)
            except Wrong as error:
                raise Wrong(f"line {number}: {error}") from None

    def _line(self, raw: bytes) -> None:
        try:
            document = load(raw.decode())
            kind = document["kind"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Wrong("no line of a bundle (a JSON object with `kind`)") from None
        if kind not in ("log", "entry", "account", "end"):
            raise Wrong(f"a line of the kind {kind!r}, expected log, entry, account or end")
        if self.ended and kind != "log":
            raise Wrong("there are lines after the end")
        try:
            {"log": self._begin, "entry": self._entry, "account": self._account, "end": self._end}[kind](document)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Wrong(f"a member is missing or of another type ({error})") from None

    def _begin(self, document: dict) -> None:
        if document["format"] != BUNDLE:
            raise CannotCheck(f"the bundle is of the form {document['format']!r}, this program knows {BUNDLE}")
        self._finish_log()
        self.keys.begins[document["origin"]] = document["first_seq"]
        if "closed" in document:
            told = check_closed(document["closed"], self.keys)
            self.closings[told["origin"]] = told | {"by": document["closed"]["seq"]}
            if document["closed"]["seq"] != document["first_seq"] + document["size"]:
                raise Wrong("the entry that opens the successor does not follow upon the log that was closed")
        self.checkpoint = self.keys.open(document["checkpoint"])
        if (self.checkpoint.origin, self.checkpoint.size) != (document["origin"], document["size"]):
            raise Wrong("the checkpoint is of another log or size than the line says")
        for held in self.held:
            if (held.origin, held.size) == (self.checkpoint.origin, self.checkpoint.size):
                self._compare(held, self.checkpoint.root)
        begins, selection = document["from_seq"], dict(document["selection"])
        if self._log and selection != self.selection:
            raise Wrong("it goes on with another selection")
        if self._next is not None and begins < self._next:
            raise Wrong(f"it begins anew at entry {begins}, what is before entry {self._next} was there already")
        if self._next is not None and begins > self._next and (self.ended or not selection):
            raise Wrong(f"entries {self._next} to {begins - 1} are missing")
        if not self._log:
            self._from_the_first = begins == 1
        same_log = bool(self._log) and document["first_seq"] == self._log["first_seq"]
        if not same_log:
            self.tree = Tree() if not selection and begins == document["first_seq"] else None
        self._log, self.selection, self.ended = document, selection, False
        begun = self.logs.get(document["origin"], document)["from_seq"]
        self.logs[document["origin"]] = document | {"from_seq": begun}
        if not selection:
            self._next = begins

    def _entry(self, document: dict) -> None:
        if self.checkpoint is None:
            raise Wrong("an entry before the line that names its log")
        proved = check_proof(document["proof"], self.keys)
        seq, record = document["seq"], proved.record
        if proved.checkpoint.note != self.checkpoint.note:
            raise Wrong(f"entry {seq}: its proof leads to another checkpoint than the bundle's")
        if not (seq == record["seq"] == self._log["first_seq"] + proved.index):
            raise Wrong(f"entry {seq}: its record is of entry {record['seq']}, its leaf the {proved.index + 1}. of the log")
        self._place(seq, record)
        event = document["event"]
        try:
            by = check_event(event, record)
        except Wrong as error:
            raise Wrong(f"entry {seq}: {error}") from None
        if by is not None:
            self.erased += 1
            if by in self.accounts:
                self._check_account(seq, by)
            else:
                self.unaccounted.setdefault(by, []).append(seq)
        elif record["event_type"] == REDACTED:
            self._note_account(seq, event, record["event_id"])
        if self.tree is not None:
            self.tree.append(proved.leaf)
            for checkpoint in self.held:
                if (checkpoint.origin, checkpoint.size) == (self.checkpoint.origin, self.tree.size):
                    self._compare(checkpoint, self.tree.root())

    def _account(self, document: dict) -> None:
        """The event of an erasure, which is elsewhere in the log, before the entries that it accounts for."""
        proved, event = check_account(document, self.keys)
        if proved.record["event_type"] != REDACTED:
            raise Wrong(f"entry {document['seq']} accounts for no erasure")
        self._note_account(document["seq"], event, proved.record["event_id"])

    def _note_account(self, seq: int, event: dict, event_id: str) -> None:
        self.accounts[event_id] = seq, event["data"]["audit"]["entries"]
        for erased in self.unaccounted.pop(event_id, []):
            self._check_account(erased, event_id)

    def _check_account(self, erased: int, event_id: str) -> None:
        """Raises Wrong unless the event names the entry, and came after it."""
        seq, spans = self.accounts[event_id]
        if seq <= erased or not any(first <= erased <= last for first, last in spans):
            raise Wrong(f"entry {erased}: it is marked as erased by the event {event_id}, which does not name it")

    def finish(self) -> None:
        """Raises Wrong where an entry is erased and nothing accounts for it, CannotCheck where that is to come."""
        self._compare_with_closings()
        missing = sorted((seqs[0], event_id) for event_id, seqs in self.unaccounted.items())
        for seq, event_id in missing:
            if event_id not in self.pending:
                raise Wrong(f"entry {seq}: it is marked as erased by the event {event_id}, which is not in the bundle")
        for seq, event_id in missing:
            what = f"entry {seq} is marked as erased by the event {event_id}"
            raise CannotCheck(f"{what}, which no checkpoint covered yet when the bundle was made: ask for it again")

    def _compare(self, checkpoint: Checkpoint, root: bytes) -> None:
        if root == checkpoint.root:
            self.compared.add((checkpoint.origin, checkpoint.size))
        elif self._is_promised(checkpoint):
            self.lost.add((checkpoint.origin, checkpoint.size))
        else:
            raise Wrong(f"the first {checkpoint.size} entries are not those of your checkpoint")

    def _is_promised(self, kept: Checkpoint) -> bool:
        """Whether the successor's first entry says that so much had been signed for when the log was closed."""
        promised = self.closings.get(kept.origin, {}).get("checkpoint")
        if promised is None:
            return False
        return kept.size < promised["size"] or (kept.size, kept.root) == (promised["size"], decode(promised["root"], "the root"))

    def _compare_with_closings(self) -> None:
        for kept in self.held:
            closing = self.closings.get(kept.origin)
            if closing is None or kept.size <= closing["size"]:
                continue
            if not self._is_promised(kept):
                told = f"entry {closing['by']} says that {kept.origin} was closed with {closing['size']} entries"
                raise Wrong(f"{told}, and passes over your checkpoint of {kept.size}")
            self.lost.add((kept.origin, kept.size))

    def _place(self, seq: int, record: dict) -> None:
        """In order; without a gap where everything, or all of one task, was asked for."""
        if self.last is not None and seq <= self.last:
            raise Wrong(f"entry {seq} stands after entry {self.last}")
        if not self.selection and seq != self._next:
            raise Wrong(f"entry {self._next} is missing")
        if set(self.selection) == {"task"} and record["version"] is not None:
            subject = f"{record['subject_type']}/{record['subject_id']}"
            before = self._versions.get(subject, 0 if self._from_the_first else None)
            if before is not None and record["version"] != before + 1:
                raise Wrong(f"entry {seq} is version {record['version']} of {subject}, the one before is version {before}")
            self._versions[subject] = record["version"]
        self.first, self.last = self.first or seq, seq
        self.entries += 1
        self._next = seq + 1

    def _finish_log(self) -> None:
        if self.tree is not None and self.tree.size == self.checkpoint.size and self.tree.root() != self.checkpoint.root:
            raise Wrong("the entries together do not make the tree of the checkpoint")

    def _end(self, document: dict) -> None:
        self._finish_log()
        if not self.selection and self._log and self._next != document["next_seq"]:
            raise Wrong(f"entry {self._next} is missing")
        # One that goes on after another was cut off counts its own.
        if document["entries"] > self.entries:
            raise Wrong(f"the bundle had {document['entries']} entries, {self.entries} are here")
        self.pending |= set(document.get("pending", []))
        self._next, self.ended = document["next_seq"], True

    def said(self) -> list[str]:
        lines = [f"{self.entries} entries" + (f", {self.first} to {self.last}" if self.entries else "")]
        for origin, log in self.logs.items():
            which = "each is" if len(self.logs) == 1 else f"from entry {log['from_seq']} on each is"
            closed = f", with which entry {log['closed']['seq']} says that it was closed" if "closed" in log else ""
            lines.append(f"{which} in the log {origin} at the size of {log['size']} entries{closed}")
        if self.erased:
            lines.append(f"{self.erased} of them are erased: what they said cannot be checked")
        if not self.selection:
            lines.append("no entry between the first and the last is missing")
        elif set(self.selection) == {"task"}:
            lines.append("no version of the task between the first and the last is missing")
        else:
            asked = ", ".join(f"{name} {value}" for name, value in self.selection.items())
            lines.append(f"not proved: that these are all entries of {asked}; who made the bundle may have left some out")
        lines += [f"your checkpoint of {size} entries agrees" for _, size in sorted(self.compared)]
        lines += [
            f"lost: what your checkpoint of {size} entries was signed for, as entry {self.closings[origin]['by']} says"
            for origin, size in sorted(self.lost)
        ]
        lines += [
            f"your checkpoint of {checkpoint.size} entries was not compared: the bundle does not hold all entries up to it"
            for checkpoint in self.held
            if (checkpoint.origin, checkpoint.size) not in self.compared | self.lost
        ]
        lines.append("not proved: that there is nothing after the checkpoint, and that what was recorded is true")
        return lines


# The command.


def text_or_file(value: str) -> str:
    path = Path(value)
    return path.read_text() if len(value) < 255 and path.is_file() else value


def check_single(raw: bytes, keys: Keys, event_file: str | None, held: list[Checkpoint]) -> list[str]:
    try:
        proved = check_proof(raw.decode(), keys)
    except UnicodeDecodeError:
        raise Wrong("the proof is no text") from None
    record, agrees = proved.record, []
    for kept in held:
        if (kept.origin, kept.size) != (proved.checkpoint.origin, proved.checkpoint.size):
            raise CannotCheck(
                f"--checkpoint: yours is of {kept.size} entries of {kept.origin}, that of the proof of {proved.checkpoint.size} of "
                f"{proved.checkpoint.origin}; whether one contains the other only a bundle tells"
            )
        if kept.root != proved.checkpoint.root:
            raise Wrong(f"the checkpoint of the proof is not yours: two trees of {kept.size} entries were signed")
        agrees = [f"your checkpoint of {kept.size} entries agrees"]
    lines = [f"entry {record['seq']} is in the log {record['origin']} at the size of {proved.checkpoint.size} entries"]
    lines += [f"  {name}: {record[name]}" for name in ELEMENTS[3:] if record[name] is not None] + agrees
    if event_file is None:
        return [*lines, "not proved: what the event says; give it by --event"]
    try:
        event = load(Path(event_file).read_text())
    except (ValueError, RecursionError):
        raise Wrong(f"{event_file} is no JSON document") from None
    # The API shows it within the entry.
    event = event.get("event_data", event) if isinstance(event, dict) else event
    by = check_event(event, record)
    if by is not None:
        raise CannotCheck(f"--event: it is marked as erased by the event {by}; whether that accounts for it only a bundle tells")
    return [*lines, "the event is the one that was recorded"]


def open_held(path: str, keys: Keys) -> Checkpoint:
    try:
        return keys.open(Path(path).read_text())
    except Wrong as error:
        raise CannotCheck(f"--checkpoint {path}: {error}") from None


def check(options) -> tuple[list[str], bool]:
    """What is to be said, and whether entries are lost. Raises Wrong and CannotCheck."""
    keys = Keys(
        [Key.parse(text_or_file(item)) for item in options.key], [Key.parse(text_or_file(item)) for item in options.witness]
    )
    held = [open_held(path, keys) for path in options.checkpoint]
    with sys.stdin.buffer if options.file == "-" else open(options.file, "rb") as file:
        first = file.readline()
        if first.rstrip(b"\n") == PROOF_HEADER.encode():
            return check_single(first + file.read(), keys, options.event, held), False
        if options.event is not None:
            raise CannotCheck("--event goes with a single proof: a bundle holds its events")
        bundle = Bundle(keys, held)
        bundle.read(chain([first] if first else [], file))
    if not bundle.ended:
        raise CannotCheck(
            f"the bundle ends after entry {bundle.last} without its end line: it was cut off, and what is here is sound. "
            f"Ask for the rest, from entry {(bundle.last or 0) + 1} on, and append it"
        )
    bundle.finish()
    return bundle.said(), bool(bundle.lost)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a bundle of a TaskPulse audit log, or one entry with its proof.")
    parser.add_argument("file", metavar="FILE", help="a bundle (JSON Lines) or a .tlog-proof; - reads the standard input")
    parser.add_argument("--key", action="append", required=True, help="the log's verifier key, or a file that holds it")
    parser.add_argument(
        "--witness", action="append", default=[], metavar="KEY", help="the key of a witness that must have cosigned"
    )
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="FILE", help="one that you kept: the bundle must agree"
    )
    parser.add_argument("--event", metavar="FILE", help="the event of a single proof, as JSON")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document")
    options = parser.parse_args()
    try:
        lines, lost = check(options)
        result, code = ("sound but for a loss", 3) if lost else ("sound", 0)
    except Wrong as error:
        result, lines, code = "wrong", [str(error)], 1
    except (CannotCheck, OSError, UnicodeDecodeError) as error:
        result, lines, code = "could not check", [str(error)], 2
    except Exception as error:
        # Python itself would end with 1, which is a verdict here.
        result, lines, code = "could not check", [f"{type(error).__name__}: {error}"], 2
    if options.json:
        print(json.dumps({"result": result, "details": lines}))
    else:
        print(f"{result}: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
