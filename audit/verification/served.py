"""What is served of the log beside its checkpoints (C2SP tlog-tiles): tiles, entry bundles, cosignatures.

Whoever reads the log by these must be shown what its entries say. Here is what concerns a span of them, for processes that
know nothing of Django; what concerns all of a log is in `served_log`.
"""

import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

from audit import leaf, tiles
from audit.merkle import HASH_SIZE, Edge, leaf_hash
from audit.signed_note import COSIGNATURE, MalformedNote, Note, Signature, Unverified, VerifierKey
from audit.tiles import WIDTH
from audit.verification.report import Finding

RESTS_ON = "the entries and checkpoints that it is held against; cosignatures on the witnesses' keys that are given by --key"
# Bundles read in one statement, and the most that one holds.
_BUNDLES, _MOST_BYTES = 8, WIDTH * (2 + leaf.MAX_RECORD)
# Of a cosignature: its time and an Ed25519 signature (tlog-cosignature, "Format").
_COSIGNATURE_BYTES = 72

Tile = tuple[int, bytes, bytes | None]
_TILES = "SELECT number, hashes, root FROM audit_tile WHERE log = %s AND level = 0 AND number BETWEEN %s AND %s"
_BUNDLE = "SELECT number, records FROM audit_bundle WHERE log = %s AND number BETWEEN %s AND %s ORDER BY number"
_COSIGNED = """
SELECT s.size, s.witness, s.line, c.note FROM audit_cosignature s JOIN audit_checkpoint c ON c.log = s.log AND c.size = s.size
WHERE s.log = %s AND s.size > %s AND s.size <= %s ORDER BY s.size
"""


def read_tiles(connection, log: int, start: int, end: int) -> list[Tile]:
    """Number, hashes and root of the tiles of level 0 for the leaves from `start` to before `end`."""
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(_TILES, [log, start // WIDTH, (end - 1) // WIDTH]).fetchall()


def leaves_of(stored: list[Tile]) -> dict[int, bytes]:
    """Leaf hashes by index."""
    return {number * WIDTH + at: value for number, hashes, _ in stored for at, value in enumerate(tiles.split(hashes))}


def check_tiles(log: int, stored: list[Tile]) -> Iterator[Finding]:
    """Whether the root beside each is that of its hashes. The hashes are held against the entries elsewhere (`spans`)."""
    for number, hashes, root in stored:
        if root is not None and root_of(hashes) != root:
            yield finding(log, 0, number, "the root that is stored with the tile is not that of its hashes")


def root_of(hashes: bytes) -> bytes | None:
    """The root of a full tile; None for what is none."""
    if len(hashes) != WIDTH * HASH_SIZE:
        return None
    edge = Edge()
    for value in tiles.split(hashes):
        edge.append(value)
    return edge.root()


def finding(log: int, level: int, number: int, text: str) -> Finding:
    """Of a tile or, as level 0, of a bundle; with the entries for which it stands."""
    width = WIDTH ** (level + 1)
    return Finding("served", text, log + number * width, log + (number + 1) * width - 1)


def check_bundles(
    connection, log: int, start: int, leaves: Sequence[bytes | None], stored: list[Tile], share: float, seen: Counter
) -> Iterator[Finding]:
    """The records of each bundle, or of a `share` of them, against the leaves from index `start` on; None where one is
    missing. There are as many as its tile has hashes: more than `leaves`, where the log has grown since."""
    widths = {number: len(hashes) // HASH_SIZE for number, hashes, _ in stored}
    # Those that begin here.
    first, last = -(-start // WIDTH), (start + len(leaves) - 1) // WIDTH
    for batch in range(first, last + 1, _BUNDLES):
        if share < 1 and random.random() >= share:  # noqa: S311
            continue
        with connection.cursor(binary=True) as cursor:
            rows = cursor.execute(_BUNDLE, [log, batch, min(batch + _BUNDLES - 1, last)]).fetchall()
        for number, packed in rows:
            seen["bundles"] += 1
            wanted = leaves[number * WIDTH - start :][:WIDTH]
            yield from _bundle_faults(log, number, packed, wanted, widths.get(number, 0))


def _bundle_faults(log: int, number: int, packed: bytes, wanted: Sequence[bytes | None], width: int) -> Iterator[Finding]:
    try:
        # No more than fits one, whatever is stored.
        unpacking = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        records = tiles.records_of(unpacking.decompress(packed, _MOST_BYTES))
        if not unpacking.eof or unpacking.unused_data:
            raise ValueError("it does not end where its records do")
    except (ValueError, zlib.error) as error:
        yield finding(log, 0, number, f"the entry bundle is none: {error}")
        return
    for at, (record, leaf_) in enumerate(zip(records, wanted, strict=False)):
        if leaf_ is not None and leaf_hash(record) != leaf_:
            yield Finding("served", "its record in the entry bundle is another", log + number * WIDTH + at)
            return
    if len(records) < len(wanted) or (width and len(records) != width):
        text = f"the entry bundle holds {len(records)} records, and there are {max(width, len(wanted))} entries"
        yield finding(log, 0, number, text)


def check_cosignatures(connection, log: int, start: int, end: int, keys: Sequence[VerifierKey], seen: Counter) -> Iterator[Finding]:
    """The lines of witnesses below the checkpoints of sizes above `start`, up to `end`."""
    known = {(key.name, key.key_id): key for key in keys if key.algorithm == COSIGNATURE}
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(_COSIGNED, [log, start, end]).fetchall()
    for size, witness, line, note in rows:
        seen["cosignatures"] += 1
        try:
            key = _cosigned_by(witness, line, known)
            if key is None:
                seen["unproved"] += 1
            else:
                key.verify(Note.parse(note).text, Signature.parse(line[:-1]).value)
        except (MalformedNote, Unverified) as error:
            yield Finding("served", f"the cosignature of the checkpoint of {size} entries by {witness}: {error}")


def _cosigned_by(witness: str, line: str, known: dict) -> VerifierKey | None:
    """The key of a line; None where it was not given. Raises MalformedNote for what is no line of this witness."""
    if not line.endswith("\n"):
        raise MalformedNote("no newline ends it")
    found = Signature.parse(line[:-1])
    if found.name != witness or len(found.value) != _COSIGNATURE_BYTES:
        raise MalformedNote("it is no cosignature of this witness")
    return known.get((found.name, found.key_id))
