"""What the first entry of a successor log says of the log before it (audit/successor.py).

It stands in the successor's tree: whatever pins that, pins the log before as it was closed, the entries too for which no
checkpoint of its own was ever signed.
"""

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from audit import successor
from audit.merkle import HASH_SIZE
from audit.verification import entries
from audit.verification.reading import read_only
from audit.verification.report import Finding, Report


@dataclass(frozen=True, slots=True)
class Opening:
    """Entry `seq`, with which a log begins: the one before was closed with `size` entries of this `root`."""

    seq: int
    size: int
    root: bytes

    @property
    def words(self) -> str:
        """Of the entries up to the end of the closed log."""
        return f"stood there when the log was closed, as entry {self.seq} says"


def read(heads: Sequence, archived: int, report: Report) -> dict[int, Opening]:
    """By the first entry of the log before. What is wrong with one is found, here or with the entries; of one that is
    archived, or altered, the report says that it was not read."""
    found = {}
    for before, head in itertools.pairwise(heads):
        with read_only() as session:
            rows = entries.read(session, head.log, head.log)
            sound = bool(rows) and not list(entries.check(session, head.origin, rows))
        if sound:
            told = _told(orjson.loads(rows[0][entries.EVENT_DATA]), head.origin)
            faults = list(_faults(told, before, head))
            report.add(*faults)
            if not faults:
                found[before.log] = Opening(head.log, before.size, base64.b64decode(told["root"]))
        else:
            why = "is archived, and its file proves it" if head.log <= archived else "cannot be read"
            report.not_proved.append(
                f"That the log {before.origin} is the one that was closed: entry {head.log}, which says so, {why}."
            )
    return found


def _told(event: Mapping, origin: str) -> dict | None:
    """What it says of its predecessor; None where it is no entry that opens a log."""
    try:
        told = event["data"][successor.KIND]
        opens = event["type"] == f"{successor.KIND}.{successor.ACTION}" and told["origin"] == origin
        predecessor = told["predecessor"]
        known = type(predecessor["size"]) is int and len(base64.b64decode(predecessor["root"], validate=True)) == HASH_SIZE
    except (KeyError, TypeError, ValueError):
        return None
    return predecessor if opens and known else None


def _faults(told: dict | None, before, head) -> Iterator[Finding]:
    if told is None:
        yield Finding("head", f"the log {head.origin} does not begin with the entry that opens it", head.log)
    elif (told["origin"], told["size"]) != (before.origin, before.size):
        text = (
            f"it opens {head.origin} and says that {told['origin']} was closed with {told['size']} entries; the log before is "
            f"{before.origin}, with {before.size}"
        )
        yield Finding("head", text, head.log)
