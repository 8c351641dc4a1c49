"""Tiles and entry bundles as they are stored: full ones in tables of their own, the rest from what they are made of.

A full tile is one look-up by primary key. A partial one is the beginning of what will be a full tile: of level 0 the
leaf hashes of the last entries, above it the roots of the full tiles below.
"""

import gzip

from django.db import connection

from audit import leaf, tiles
from audit.merkle import HASH_SIZE
from audit.tiles import WIDTH, Place

_TILE = "SELECT hashes FROM audit_tile WHERE log = %s AND level = %s AND number = %s"
ROOTS = "SELECT root FROM audit_tile WHERE log = %s AND level = %s AND number BETWEEN %s AND %s ORDER BY number"
_LEAVES = "SELECT leaf_hash FROM task_audit_log WHERE seq BETWEEN %s AND %s ORDER BY seq"
_BUNDLE = "SELECT records FROM audit_bundle WHERE log = %s AND number = %s"
_ENTRIES = """
SELECT (SELECT origin FROM audit_log WHERE first_seq = %s), seq, event_id, event_type, subject_type, subject_id, version, task_id,
  actor_id, occurred_at, processed_at, topic, partition, "offset", digest, leaf_hash
FROM task_audit_log WHERE seq BETWEEN %s AND %s ORDER BY seq
"""


class MissingTile(LookupError):
    """No such tile is stored, and it cannot be made of what is."""


def read_tile(log: int, level: int, number: int, width: int = WIDTH) -> bytes:
    """The first `width` hashes of a tile of the log that begins with entry `log`. Raises MissingTile."""
    with connection.cursor() as cursor:
        cursor.execute(_TILE, [log, level, number])
        row = cursor.fetchone()
        if row is None and width < WIDTH:
            first = number * WIDTH
            if level == 0:
                cursor.execute(_LEAVES, [log + first, log + first + width - 1])
            else:
                cursor.execute(ROOTS, [log, level - 1, first, first + width - 1])
            row = [b"".join(bytes(found or b"") for (found,) in cursor)]
    if row is None or len(row[0]) < width * HASH_SIZE:
        raise MissingTile(str(Place(level, number, width)))
    return bytes(row[0])[: width * HASH_SIZE]


def nodes(log: int, size: int):
    """The perfect subtrees of the first `size` entries of a log, for proofs and roots."""
    return tiles.nodes(size, lambda level, number, width: read_tile(log, level, number, width))


def read_bundle(log: int, number: int, width: int = WIDTH) -> bytes:
    """An entry bundle, gzipped (RFC 1952). Raises MissingTile."""
    with connection.cursor() as cursor:
        cursor.execute(_BUNDLE, [log, number])
        row = cursor.fetchone()
    if row is not None and width == WIDTH:
        return bytes(row[0])
    if row is not None:
        records = tiles.records_of(gzip.decompress(row[0]))
    else:
        records = [record for _, record, _ in entries(log, number * WIDTH, width)]
    if len(records) < width:
        raise MissingTile(str(Place(None, number, width)))
    return compress(tiles.bundle(records[:width]))


def entries(log: int, first: int, count: int) -> list[tuple[int, bytes, bytes]]:
    """Of `count` entries from the index `first` on: seq, leaf record made from the columns, leaf hash as it is stored.

    Fewer where there are no more. Raises ValueError for columns that make no record.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ENTRIES, [log, log + first, log + first + count - 1])
        return [(columns[1], leaf.record(*columns), bytes(leaf_hash)) for *columns, leaf_hash in cursor]


def compress(raw: bytes) -> bytes:
    """Fast: the writer must keep up with the recorder. Without a time: the same bytes give the same answer."""
    return gzip.compress(raw, compresslevel=1, mtime=0)
