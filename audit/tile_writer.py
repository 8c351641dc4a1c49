"""Writes the log's full tiles and entry bundles, from its entries, and recomputes the tree on the way.

Nothing is taken on trust from the tables: each leaf record is made from the entry's columns, its hash compared with the
one that the recorder stored, and the tree grown from these hashes must be the one whose edge the head holds.
"""

from dataclasses import dataclass

from django.db import connection, transaction

from audit import proofs, tile_store, tiles
from audit.merkle import HASH_SIZE, Edge, leaf_hash
from audit.tiles import WIDTH

# Entries read and written in one transaction.
CHUNK = 4 * WIDTH


class Tampered(Exception):
    """What is stored is not what was recorded. The message names the first entry concerned, where one can be named."""


@dataclass(frozen=True, slots=True)
class Head:
    """A log as its row in audit_log tells: `log` is its first seq; read without a lock, so committed and visible."""

    log: int
    origin: str
    size: int
    edge: bytes


_HEAD = "SELECT first_seq, origin, size, edge FROM audit_log ORDER BY first_seq DESC LIMIT 1"
_FULL = "SELECT coalesce(max(number) + 1, 0) FROM audit_tile WHERE log = %s AND level = 0 AND root IS NOT NULL"
_INSERT_TILE = "INSERT INTO audit_tile (log, level, number, hashes, root) VALUES (%s, %s, %s, %s, %s)"
_INSERT_BUNDLE = "INSERT INTO audit_bundle (log, number, records) VALUES (%s, %s, %s)"


def read_head() -> Head | None:
    with connection.cursor() as cursor:
        cursor.execute(_HEAD)
        row = cursor.fetchone()
    return row and Head(*row[:3], bytes(row[3]))


class TileWriter:
    """The tree of one log as far as it was looked at. After an exception it knows too much: make another."""

    def __init__(self, log: int):
        self.log = log
        with connection.cursor() as cursor:
            cursor.execute(_FULL, [log])
            full = cursor.fetchone()[0]
        read = tile_store.nodes(log, full * WIDTH)
        # The roots of the full tiles are the leaves of a tree of their own; `_tile` is the one in the making.
        self._full = tiles.edge_of(full, lambda level, number: read(level + tiles.HEIGHT, number))
        self._tile, self._records, self._hashes = Edge(), [], []

    @property
    def size(self) -> int:
        return self._full.size * WIDTH + self._tile.size

    def edge(self) -> Edge:
        return Edge.from_bytes(self.size, self._full.to_bytes() + self._tile.to_bytes())

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` entries, no more than were looked at. Raises MissingTile."""
        return self.edge().root() if size == self.size else proofs.root(size, tile_store.nodes(self.log, size))

    def advance(self, size: int) -> None:
        """Looks at the next entries, up to `size` and at most CHUNK, and writes the tiles that they fill.

        Raises Tampered.
        """
        first = self.size
        count = min(size - first, CHUNK)
        try:
            found = tile_store.entries(self.log, first, count)
        except ValueError as error:
            raise Tampered(str(error)) from None
        with transaction.atomic():
            for wanted, (seq, record, stored) in enumerate(found, start=self.log + first):
                hashed = leaf_hash(record)
                if seq != wanted:
                    raise Tampered(f"entry {wanted} is missing")
                if hashed != stored:
                    raise Tampered(f"entry {seq} is not what its leaf hash says")
                self._add(record, hashed)
        if len(found) < count:
            raise Tampered(f"entry {self.log + first + len(found)} is missing")

    def _add(self, record: bytes, hashed: bytes) -> None:
        self._tile.append(hashed)
        self._records.append(record)
        self._hashes.append(hashed)
        if self._tile.size == WIDTH:
            root = self._tile.root()
            self._write(0, self._full.size, b"".join(self._hashes), root)
            with connection.cursor() as cursor:
                records = tile_store.compress(tiles.bundle(self._records))
                cursor.execute(_INSERT_BUNDLE, [self.log, self._full.size, records])
            self._full.append(root)
            self._tile, self._records, self._hashes = Edge(), [], []

    def _write(self, level: int, number: int, hashes: bytes, root: bytes) -> None:
        """Inserts a full tile, and the one above when it is full by that."""
        with connection.cursor() as cursor:
            cursor.execute(_INSERT_TILE, [self.log, level, number, hashes, root])
        if number % WIDTH == WIDTH - 1:
            above = _above(self.log, level, number)
            self._write(level + 1, number // WIDTH, above, _root(above))

    def close_log(self) -> None:
        """Stores the last tile as narrow as it is, when the log gets a successor: no entry will fill it."""
        if self._hashes:
            with connection.cursor() as cursor:
                cursor.execute(_INSERT_TILE, [self.log, 0, self._full.size, b"".join(self._hashes), None])
                records = tile_store.compress(tiles.bundle(self._records))
                cursor.execute(_INSERT_BUNDLE, [self.log, self._full.size, records])


def _above(log: int, level: int, number: int) -> bytes:
    """The hashes of the tile above 256 full tiles of which `number` is the last."""
    with connection.cursor() as cursor:
        cursor.execute(tile_store.ROOTS, [log, level, number - WIDTH + 1, number])
        return b"".join(bytes(root) for (root,) in cursor)


def _root(hashes: bytes) -> bytes:
    if len(hashes) != WIDTH * HASH_SIZE:
        raise Tampered(f"of the {WIDTH} tiles below a tile there are {len(hashes) // HASH_SIZE}")
    edge = Edge()
    for value in tiles.split(hashes):
        edge.append(value)
    return edge.root()
