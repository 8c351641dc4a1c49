"""C2SP tlog-tiles (c2sp.org/tlog-tiles): where the hashes of a tree stand among its tiles, and what a tile's path is."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from audit.merkle import HASH_SIZE, Edge
from audit.proofs import ReadNode

# Hashes or records of a full tile, and the levels of the tree that one level of tiles spans.
WIDTH = 256
HEIGHT = 8
MOST_LEVEL = 63
# `read(level, number, width)`: at least the first `width` hashes of a tile, one after the other.
ReadTile = Callable[[int, int, int], bytes]

_NUMBER = re.compile(r"(?:x[0-9]{3}/)*[0-9]{3}", re.ASCII)
_WIDTH = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_LEVEL = re.compile(r"0|[1-9][0-9]?", re.ASCII)
# A proof takes one tile of each level and those at the right edge: two of each, and a log has no eight levels.
_TILES_KEPT, _NODES_KEPT = 32, 2_048
# Beyond it no bigint counts the leaves.
_MOST_NUMBER = 2**63 // WIDTH


@dataclass(frozen=True, slots=True)
class Place:
    """One tile: `level` of tiles (None for an entry bundle), `number` from 0, `width` from 1 to 256."""

    level: int | None
    number: int
    width: int = WIDTH

    @property
    def end(self) -> int:
        """How many leaves a tree has at least that holds this tile."""
        return (self.number * WIDTH + self.width) << (HEIGHT * (self.level or 0))

    def __str__(self) -> str:
        """The path below `tile/`."""
        digits = f"{self.number:03}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        partial = f".p/{self.width}" if self.width < WIDTH else ""
        return f"{'entries' if self.level is None else self.level}/{path}{partial}"

    @classmethod
    def parse(cls, path: str) -> "Place | None":
        """The tile of a path below `tile/`; None for what is the path of no tile, or not its only spelling."""
        level, _, rest = path.partition("/")
        number, partial, width = rest.partition(".p/")
        if not _NUMBER.fullmatch(number) or (partial and not _WIDTH.fullmatch(width)):
            return None
        if level != "entries" and (not _LEVEL.fullmatch(level) or int(level) > MOST_LEVEL):
            return None
        value = int(number.replace("x", "").replace("/", ""))
        place = cls(None if level == "entries" else int(level), value, int(width) if partial else WIDTH)
        # Padding by a group of zeros, a width of 256 or more, a number without end.
        return place if value < _MOST_NUMBER and str(place) == path else None


def places(size: int) -> Iterator[Place]:
    """Every hash tile of a tree of `size` leaves, the partial ones included."""
    for level in range(MOST_LEVEL + 1):
        width = size >> (HEIGHT * level)
        if not width:
            return
        yield from (Place(level, number) for number in range(width // WIDTH))
        if width % WIDTH:
            yield Place(level, width // WIDTH, width % WIDTH)


def nodes(size: int, read: ReadTile) -> ReadNode:
    """The perfect subtrees of a tree of `size` leaves, from its tiles. What was read or computed last is kept, which is all
    that one proof needs, or proofs of one leaf after the other."""

    @lru_cache(_TILES_KEPT)
    def tile(level: int, number: int) -> list[bytes]:
        width = min(WIDTH, (size >> (HEIGHT * level)) - number * WIDTH)
        return split(read(level, number, width))

    @lru_cache(_NODES_KEPT)
    def node(level: int, number: int) -> bytes:
        below = level % HEIGHT
        first = number << below
        found = tile(level // HEIGHT, first // WIDTH)[first % WIDTH :][: 1 << below]
        if len(found) < 1 << below:
            raise ValueError(f"a tree of {size} leaves has no node {number} of level {level}")
        edge = Edge()
        for value in found:
            edge.append(value)
        return edge.root()

    return node


def edge_of(size: int, read: ReadNode) -> Edge:
    """The right edge of the tree of the first `size` leaves."""
    roots, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            roots.append(read(level, start >> level))
            start += 1 << level
    return Edge.from_bytes(size, b"".join(roots))


def split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)]


def bundle(records: list[bytes]) -> bytes:
    """An entry bundle: each record with its length in 16 bits before it, big-endian."""
    return b"".join(len(record).to_bytes(2, "big") + record for record in records)


def records_of(raw: bytes) -> list[bytes]:
    """The records of an entry bundle. Raises ValueError for what is none."""
    records, at = [], 0
    while at < len(raw):
        start, at = at + 2, at + 2 + int.from_bytes(raw[at : at + 2], "big")
        records.append(raw[start:at])
    if at != len(raw):
        raise ValueError("the entry bundle ends within a record")
    return records
