"""What proofs of entries lead to: the newest checkpoint of a log, and beyond it, where the log was closed, its last tree.

A log that got a successor signs no more (audit/successor.py). Entries above its last checkpoint are covered all the same:
the successor's first entry states the tree with which the log was closed, and stands itself in a tree that is signed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from django.db import connection
from psycopg.pq import Format

from audit import checkpoint_store, proofs, tile_store
from audit.checkpoint import Checkpoint
from audit.merkle import Edge
from audit.tlog_proof import TlogProof
from audit.verification import entries
from tasks.events import canonical


class CannotProve(Exception):
    """An entry has no proof any more: a column or a tile is not what was written. `manage.py verify_audit` names it."""


@dataclass(frozen=True, slots=True)
class Log:
    """`closed`: with how many entries, where the log has a successor; None where it goes on."""

    first_seq: int
    origin: str
    closed: int | None
    edge: bytes


@dataclass(frozen=True, slots=True)
class Tree:
    """The first `size` entries of a log. `note` is the checkpoint, signed; or unsigned, and `closed_by` is the document of the
    entry that states it."""

    log: Log
    size: int
    note: bytes
    closed_by: dict | None = None

    @property
    def end(self) -> int:
        """The first `seq` that is not in it."""
        return self.log.first_seq + self.size


_LOGS = """
SELECT first_seq, origin, CASE WHEN lead(first_seq) OVER w IS NOT NULL THEN size END, edge FROM audit_log
WINDOW w AS (ORDER BY first_seq) ORDER BY first_seq
"""


def logs() -> list[Log]:
    with connection.cursor() as cursor:
        cursor.execute(_LOGS)
        return [Log(first, origin, closed, bytes(edge)) for first, origin, closed, edge in cursor]


def trees(log: Log) -> Iterator[Tree]:
    """The smaller one first. Raises CannotProve."""
    stored = checkpoint_store.latest(log.first_seq)
    if stored is not None:
        yield Tree(log, stored.size, stored.cosigned)
    if log.closed and log.closed > (stored.size if stored else 0):
        by = document(log.first_seq + log.closed)
        if by is not None:
            root = Edge.from_bytes(log.closed, log.edge).root()
            yield Tree(log, log.closed, Checkpoint(log.origin, log.closed, root).text.encode(), by)


def document(seq: int) -> dict | None:
    """An entry that proves itself: `seq`, `event` in the bytes that its digest is of, `proof`, and `closed` where that leads to
    a tree that was never signed. None where nothing covers it yet, or it is not here. Raises CannotProve."""
    log = next((log for log in reversed(logs()) if log.first_seq <= seq), None)
    tree = log and next((tree for tree in trees(log) if seq < tree.end), None)
    rows = tree and read(entries.SELECT, [seq, seq])
    if not rows:
        return None
    return {**proved(rows[0], tree, nodes(tree)), **({"closed": tree.closed_by} if tree.closed_by else {})}


def nodes(tree: Tree) -> proofs.ReadNode:
    return tile_store.nodes(tree.log.first_seq, tree.size)


def proved(row: tuple, tree: Tree, read_node: proofs.ReadNode) -> dict:
    """`seq`, `event` and `proof` of a row of entries.SELECT. Raises CannotProve."""
    seq = row[entries.SEQ]
    try:
        path = tuple(proofs.inclusion(seq - tree.log.first_seq, tree.size, read_node))
        proof = TlogProof(seq - tree.log.first_seq, path, tree.note, entries.record(tree.log.origin, row))
    except (ValueError, tile_store.MissingTile) as error:
        raise CannotProve(f"entry {seq}: {error}") from error
    return {"seq": seq, "event": _event(row[entries.EVENT_DATA]), "proof": bytes(proof).decode()}


def _event(text: str) -> orjson.Fragment:
    """In the bytes of its digest. What has no canonical form goes as it is: whoever checks it finds it."""
    try:
        return orjson.Fragment(canonical(orjson.loads(text)))
    except (ValueError, TypeError):
        return orjson.Fragment(text)


def read(statement: str, parameters: list) -> list[tuple]:
    """Rows as `entries` looks at them."""
    with connection.cursor() as cursor:
        cursor.cursor.format = Format.BINARY
        cursor.execute(statement, parameters)
        return cursor.fetchall()
