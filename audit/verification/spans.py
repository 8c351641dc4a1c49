"""The tree, span by span: perfect subtrees that are looked at side by side and joined in their order.

A process holds one batch of rows at a time, whatever the size of the log.
"""

import multiprocessing
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import psycopg

from audit.checkpoint import Checkpoint
from audit.key_ring import KeyRing
from audit.merkle import HASH_SIZE, Edge
from audit.signed_note import MalformedNote, Note, UnknownKey, Unverified
from audit.verification import archived, entries, served, subjects
from audit.verification.report import Finding

# Entries of a span: a power of two, so that spans are perfect subtrees, and no less than a tile.
SPAN = 2**14
# Entries that are recomputed together where only a sample is.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Work:
    """What is the same for all spans of a log. `share` of the blocks are recomputed, of all that end at or after `from_seq`;
    of the others only the leaves go into the tree."""

    log: int
    origin: str
    ring: KeyRing
    tables: Mapping[str, tuple[str, str, str]]
    from_seq: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """Entries by their index in the log, `start` a multiple of SPAN; `sizes`: trees whose roots are asked for."""

    start: int
    end: int
    sizes: tuple[int, ...] = ()


@dataclass(slots=True)
class Seen:
    """What came of a span. `edges` are of its own entries alone, by the size of the log; `stored` the checkpoints there,
    `unknown` those that no known key signed."""

    span: Span
    edge: Edge
    recomputed: int = 0
    findings: list[Finding] = field(default_factory=list)
    stored: list[tuple[int, bytes]] = field(default_factory=list)
    unknown: list[tuple[int, bytes]] = field(default_factory=list)
    edges: dict[int, bytes] = field(default_factory=dict)
    # Erased entries whose event is not in the log yet, by that event's id.
    erased_by_waiting: Counter[str] = field(default_factory=Counter)
    # Of what was looked at in `served`, by what it is.
    served: Counter[str] = field(default_factory=Counter)
    # The first entry whose leaf is another in the tiles.
    other_tile: int | None = None

    def root_at(self, before: Edge, size: int) -> bytes:
        """The root of the log's first `size` entries, which end in this span; `before` is the tree up to its start."""
        edge = before.copy()
        edge.extend(Edge.from_bytes(size - self.span.start, self.edges[size]))
        return edge.root()


def spans(size: int, sizes: Iterable[int]) -> Iterator[Span]:
    sizes = sorted(sizes)
    for start in range(0, size, SPAN):
        end = min(start + SPAN, size)
        yield Span(start, end, tuple(at for at in sizes if start < at <= end))


def look(connection: psycopg.Connection, work: Work, span: Span) -> Seen:
    """Reads the span's entries once, and what is stored beside them."""
    seen = Seen(span, Edge())
    _read_checkpoints(connection, work, span, seen)
    wanted = {size for size, _ in seen.stored + seen.unknown} | set(span.sizes)
    stored_tiles = served.read_tiles(connection, work.log, span.start, span.end)
    versions, tiles, every = subjects.Versions(), served.leaves_of(stored_tiles), []
    missing, archived_until = None, None
    for start in range(span.start, span.end, entries.ROWS):
        end = min(start + entries.ROWS, span.end)
        leaves = _leaves(connection, work, versions, seen, work.log + start, work.log + end - 1)
        for index in range(start, end):
            leaf = leaves.get(work.log + index)
            if leaf is None and index in tiles:
                # Asked after the entries were read: what was archived meanwhile is told of by now.
                archived_until = archived.read(connection).until if archived_until is None else archived_until
                leaf = tiles[index] if work.log + index <= archived_until else None
            if leaf is None:
                missing = work.log + index if missing is None else missing
            elif missing is not None:
                seen.findings.append(_missing(missing, work.log + index - 1))
                missing = None
            every.append(leaf)
            if leaf is None or len(leaf) != HASH_SIZE:
                leaf = bytes(HASH_SIZE)
            if seen.other_tile is None and tiles.get(index, leaf) != leaf:
                seen.other_tile = work.log + index
            seen.edge.append(leaf)
            if index + 1 in wanted:
                seen.edges[index + 1] = seen.edge.to_bytes()
    if missing is not None:
        seen.findings.append(_missing(missing, work.log + span.end - 1))
    _look_at_served(connection, work, seen, stored_tiles, every)
    return seen


def _look_at_served(connection, work: Work, seen: Seen, stored_tiles: list[served.Tile], leaves: list[bytes | None]) -> None:
    span, log, counts = seen.span, work.log, seen.served
    counts["tiles"] = len(stored_tiles)
    seen.findings += served.check_tiles(log, stored_tiles)
    if log + span.end > work.from_seq:
        seen.findings += served.check_bundles(connection, log, span.start, leaves, stored_tiles, work.share, counts)
    seen.findings += served.check_cosignatures(connection, log, span.start, span.end, work.ring.keys, counts)


def _missing(first: int, last: int) -> Finding:
    return Finding("entries", "missing", first, last)


def _leaves(connection, work: Work, versions: subjects.Versions, seen: Seen, first: int, last: int) -> dict[int, bytes]:
    """Leaf hashes of the entries from `first` to `last` by `seq`; the entries that are to be recomputed are checked."""
    found: dict[int, bytes] = {}
    for start, end, recompute in _blocks(work, first, last):
        if recompute:
            rows = entries.read(connection, start, end)
            seen.recomputed += len(rows)
            seen.findings += entries.check(connection, work.origin, rows, seen.erased_by_waiting)
            seen.findings += versions.check(connection, rows)
            seen.findings += subjects.check_gone(connection, work.tables, rows)
            leaves = [(row[entries.SEQ], row[entries.LEAF]) for row in rows]
        else:
            versions.forget()
            leaves = entries.read_leaves(connection, start, end)
        before = len(found)
        found.update(leaves)
        if len(found) < before + len(leaves):
            twice = next(seq for at, (seq, _) in enumerate(leaves) if at and leaves[at - 1][0] == seq)
            seen.findings.append(Finding("entries", "there are two of this number", twice))
    return found


def _blocks(work: Work, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
    if work.share >= 1 and work.from_seq <= first:
        yield first, last, True
        return
    for start in range(first, last + 1, BLOCK):
        end = min(start + BLOCK - 1, last)
        yield start, end, end >= work.from_seq and (work.share >= 1 or random.random() < work.share)  # noqa: S311


_STORED = "SELECT size, root, note FROM audit_checkpoint WHERE log = %s AND size > %s AND size <= %s ORDER BY size"


def _read_checkpoints(connection, work: Work, span: Span, seen: Seen) -> None:
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(_STORED, [work.log, span.start, span.end]).fetchall()
    for size, root, note in rows:
        try:
            wrong, known = checkpoint_fault(work, size, root, note), seen.stored
        except UnknownKey:
            wrong, known = None, seen.unknown
        if wrong is not None:
            seen.findings.append(Finding("checkpoints", f"the checkpoint of {size} entries: {wrong}"))
        else:
            known.append((size, root))


def checkpoint_fault(work: Work, size: int, root: bytes, note: bytes) -> str | None:
    """What is wrong with a stored checkpoint. Raises UnknownKey where nothing is, but that no known key signed it."""
    unknown = None
    try:
        checkpoint = work.ring.open(note)
    except UnknownKey as error:
        checkpoint, unknown = Checkpoint.parse(Note.parse(note).text), error
    except (MalformedNote, Unverified) as error:
        return str(error)
    if (checkpoint.origin, checkpoint.size, checkpoint.root) != (work.origin, size, root):
        return "what is signed is not what is stored beside it"
    if unknown is not None:
        raise unknown
    return None


# In processes of their own.

_parameters: dict = {}
_connection: psycopg.Connection | None = None


def _prepare(parameters: dict) -> None:
    """Connects nowhere yet: of what fails here the pool would tell that it is broken, and not why."""
    global _parameters
    _parameters = parameters


def _look(work: Work, span: Span) -> Seen:
    global _connection
    if _connection is None:
        _connection = psycopg.connect(**_parameters)
        _connection.read_only = True
    with _connection.transaction():
        return look(_connection, work, span)


def by_processes(parameters: dict, work: Work, every: Iterable[Span], jobs: int) -> Iterator[Seen]:
    """The spans in their order, by `jobs` processes that connect with `parameters`. One that dies raises BrokenProcessPool."""
    # Not forked: a fork would share this process's connections, and the threads of its Kafka client would be missing.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _prepare, (parameters,)) as pool:
        waiting: deque = deque()
        try:
            for span in every:
                waiting.append(pool.submit(_look, work, span))
                if len(waiting) > 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
