"""What the first entry of a successor log says of the log before it (audit/successor.py).

It stands in the successor's tree: whatever pins that, pins the log before as it was closed, the entries too for which no
checkpoint of its own was ever signed.
"""

import base64
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from audit import redaction, successor
from audit.checkpoint import Checkpoint
from audit.merkle import HASH_SIZE
from audit.verification import archived, entries
from audit.verification.heads import Head
from audit.verification.reading import read_only
from audit.verification.report import Finding, Report


@dataclass(frozen=True, slots=True)
class Opening:
    """Entry `seq`, with which a log begins: the one before was closed with `size` entries of this `root`, and `promised` is the
    newest checkpoint of it that was known outside the database; None if none was."""

    seq: int
    size: int
    root: bytes
    promised: Checkpoint | None


def read(heads: Sequence[Head], report: Report) -> dict[int, Opening]:
    """By the first entry of the log before. What is wrong with one is found, here or with the entries; of one that is
    archived, or altered, the report says that it was not read."""
    found = {}
    for before, head in itertools.pairwise(heads):
        with read_only() as session:
            rows = entries.read(session, head.log, head.log)
            sound = bool(rows) and not list(entries.check(session, head.origin, rows, Counter()))
            # After the entry, so that what was archived meanwhile is told of by now.
            is_archived = not rows and head.log <= archived.read(session).until
        if sound and redaction.accounted_by(orjson.loads(rows[0][entries.EVENT_DATA])) is None:
            told = _told(orjson.loads(rows[0][entries.EVENT_DATA]), head.origin)
            faults = list(_faults(told, before, head))
            report.add(*faults)
            if not faults:
                found[before.log] = Opening(head.log, before.size, base64.b64decode(told["root"]), _promised(told))
        else:
            why = "is archived, and its file proves it" if is_archived else "is altered or erased"
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
        known = all(map(_is_tree, filter(None, (predecessor, predecessor.get("checkpoint")))))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return predecessor if opens and known else None


def _is_tree(told: Mapping) -> bool:
    return type(told["size"]) is int and len(base64.b64decode(told["root"], validate=True)) == HASH_SIZE


def _promised(told: Mapping) -> Checkpoint | None:
    checkpoint = told.get("checkpoint")
    return checkpoint and Checkpoint(told["origin"], checkpoint["size"], base64.b64decode(checkpoint["root"]))


def _faults(told: dict | None, before: Head, head: Head) -> Iterator[Finding]:
    if told is None:
        yield Finding("head", f"the log {head.origin} does not begin with the entry that opens it", head.log)
    elif (told["origin"], told["size"]) != (before.origin, before.size):
        text = (
            f"it opens {head.origin} and says that {told['origin']} was closed with {told['size']} entries; the log before is "
            f"{before.origin}, with {before.size}"
        )
        yield Finding("head", text, head.log)
