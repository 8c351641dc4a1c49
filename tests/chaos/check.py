"""What must be true once the faults are over: pure functions over the log's entries and what the writers saw.

The log is recomputed from the events alone: digests, leaves, tree, versions, and the rows that a replay gives.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from audit import leaf, merkle
from tests.chaos.record import Record

# A sentence for each problem, but not for the thousandth of a kind.
_SHOWN = 5


class LoggedEntry(NamedTuple):
    """A row of task_audit_log; `payload` is event_data in its canonical bytes."""

    seq: int
    event_id: object
    event_type: str
    subject_type: str
    subject_id: str
    version: int | None
    task_id: object
    actor_id: str | None
    request_id: str | None
    occurred_at: object
    processed_at: object
    topic: str
    partition: int
    offset: int
    digest: bytes
    leaf_hash: bytes
    payload: bytes
    document: dict


class Head(NamedTuple):
    origin: str
    first_seq: int
    size: int
    edge: bytes


@dataclass
class Problems:
    """Counts by name, and the first few of each in words."""

    counts: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, name: str, what: str) -> None:
        self.counts[name] += 1
        if self.counts[name] <= _SHOWN:
            self.examples.append(f"{name}: {what}")

    def __bool__(self) -> bool:
        return bool(self.counts)


class Ledger:
    """Reads the entries in the order of `seq` and keeps what the checks need of them."""

    def __init__(self, head: Head, problems: Problems):
        self._head, self._problems = head, problems
        self._edge = merkle.Edge()
        self._event_ids: set = set()
        self._versions: dict[tuple[str, str], int] = {}
        # (subject, version) -> (type, request id)
        self.changes: dict[tuple[str, int | None], tuple[str, str | None]] = {}
        self.deletions: set[tuple[str, str | None]] = set()
        self.by_request: Counter = Counter()
        # What a replay gives: the documents of the tasks that are there.
        self.rows: dict[str, dict] = {}

    def read(self, entries: Iterable[LoggedEntry]) -> None:
        for number, entry in enumerate(entries):
            if entry.seq != self._head.first_seq + number:
                self._problems.add("seq gap", f"entry {entry.seq} where {self._head.first_seq + number} was due")
            self._hash(entry)
            self._order(entry)
            self._replay(entry)
        if self._edge.size != self._head.size or self._edge.to_bytes() != bytes(self._head.edge):
            self._problems.add(
                "tree", f"the head says {self._head.size} entries, the log has {self._edge.size}; or the edges differ"
            )

    def _hash(self, entry: LoggedEntry) -> None:
        if hashlib.sha256(entry.payload).digest() != bytes(entry.digest):
            self._problems.add("digest", f"entry {entry.seq} does not hash to its digest")
        record = leaf.record(
            self._head.origin, entry.seq, entry.event_id, entry.event_type, entry.subject_type, entry.subject_id, entry.version,
            entry.task_id, entry.actor_id, entry.occurred_at, entry.processed_at, entry.topic, entry.partition, entry.offset,
            bytes(entry.digest),
        )  # fmt: skip
        if merkle.leaf_hash(record) != bytes(entry.leaf_hash):
            self._problems.add("leaf", f"entry {entry.seq} does not hash to its leaf")
        self._edge.append(merkle.leaf_hash(record))

    def _order(self, entry: LoggedEntry) -> None:
        if entry.event_id in self._event_ids:
            self._problems.add("twice", f"event {entry.event_id} is there again as entry {entry.seq}")
        self._event_ids.add(entry.event_id)
        subject = (entry.subject_type, entry.subject_id)
        due = self._versions.get(subject, 0) + 1
        if (entry.subject_id, entry.version) in self.changes:
            self._problems.add("twice", f"version {entry.version} of {subject} is there again as entry {entry.seq}")
        elif entry.version != due:
            self._problems.add("out of order", f"entry {entry.seq}: version {entry.version} of {subject}, {due} was due")
        self._versions[subject] = max(due, entry.version or 0)
        self.changes[entry.subject_id, entry.version] = (entry.event_type, entry.request_id)
        self.by_request[entry.request_id] += 1

    def _replay(self, entry: LoggedEntry) -> None:
        if entry.event_type == "task.deleted":
            self.deletions.add((entry.subject_id, entry.request_id))
            self.rows.pop(entry.subject_id, None)
        else:
            self.rows[entry.subject_id] = entry.document["data"]["task"]


def acknowledged(ledger: Ledger, record: Record, problems: Problems) -> None:
    """Each acknowledged change is in the log, and no request made more entries than it should."""
    for change in record.changes:
        if change.version is None:
            if (change.subject, change.request_id) not in ledger.deletions:
                problems.add("lost", f"{change}")
            continue
        found = ledger.changes.get((change.subject, change.version))
        if found is None:
            problems.add("lost", f"{change}")
        elif change.kind not in (None, found[0]) or change.request_id not in (None, found[1]):
            problems.add("other change", f"{change} is in the log as {found}")
    for request_id, entries in record.requests.items():
        if (found := ledger.by_request[request_id]) != entries:
            problems.add("lost" if found < entries else "twice", f"request {request_id}: {found} entries instead of {entries}")
    for request_id, most in record.doubtful.items():
        if (found := ledger.by_request[request_id]) not in (0, most):
            problems.add("torn", f"request {request_id}: {found} entries, all {most} or none were possible")


def replayed(ledger: Ledger, rows: dict[str, dict], problems: Problems) -> None:
    """Replaying the log gives exactly the rows of the table (`rows`: document by id)."""
    for subject in ledger.rows.keys() | rows.keys():
        expected, found = ledger.rows.get(subject), rows.get(subject)
        if expected != found:
            shown = sorted(name for name in (expected or found) if (expected or {}).get(name) != (found or {}).get(name))
            where = "log alone" if found is None else "table alone" if expected is None else f"both, differing in {shown}"
            problems.add("replay", f"task {subject}: in {where}")


def dead_letters(found: set[bytes], forged: set[bytes], certain: set[bytes], problems: Problems) -> None:
    """SHA-256 of values: what was set aside is what was forged, and each forgery that reached the topic is there."""
    for digest in found - forged:
        problems.add("dead letter of a true event", digest.hex())
    for digest in certain - found:
        problems.add("forgery not set aside", digest.hex())
