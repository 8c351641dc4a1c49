"""The whole of a verification: the log's heads, its spans joined to the tree, the checkpoints, the live rows."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from django.db import connection

from audit import checkpoint_store
from audit.checkpoint import Checkpoint
from audit.key_ring import KeyRing
from audit.merkle import Edge
from audit.signed_note import VerifierKey
from audit.verification import archived, drift, outside, spans, subjects, succession, trust
from audit.verification.reading import read_only
from audit.verification.report import KEPT, CannotCheck, Finding, Pin, Report


@dataclass(frozen=True, slots=True)
class Options:
    """`jobs` processes; `share` of the entries from `from_seq` on are recomputed, all others enter the tree by their leaves."""

    jobs: int = 1
    from_seq: int = 1
    share: float = 1.0
    progress: Callable[[str, int, int | None], None] = lambda what, done, of: None


@dataclass(slots=True)
class Head:
    log: int
    origin: str
    size: int
    edge: bytes
    # The largest checkpoint that is stored.
    signed: int

    @property
    def last(self) -> int:
        return self.log + self.size - 1


@dataclass(slots=True)
class _Tree:
    """One log's tree as far as it is joined. `held` is the largest size whose checkpoint agrees; `opening` is the successor's
    first entry, which says with what the log was closed."""

    head: Head
    pin: Pin
    opening: succession.Opening | None = None
    closed: bool = False  # with the root that the opening says
    # The smallest checkpoint that a known key signed; the largest one before it, by keys that are not known, and their number.
    known: int | None = None
    unchecked: int = 0
    unchecked_until: int = 0
    edge: Edge = field(default_factory=Edge)
    held: int = 0
    other_tile: int | None = None
    named: int | None = None  # the first entry that is known to be wrong
    disagrees: bool = False


# Where a checkpoint is stored that no known key signed.
_UNKNOWN = "stored, by a key that is not known"
# One statement, so one snapshot: what is appended meanwhile is left for the next time.
_HEADS = """
SELECT h.first_seq, h.origin, h.size, h.edge,
  coalesce((SELECT max(c.size) FROM audit_checkpoint c WHERE c.log = h.first_seq), 0),
  (SELECT min(seq) FROM task_audit_log), (SELECT max(seq) FROM task_audit_log),
  (SELECT min(log) FROM audit_checkpoint WHERE log NOT IN (SELECT first_seq FROM audit_log))
FROM audit_log h ORDER BY h.first_seq
"""


class Verifier:
    """`keys` verify checkpoints; `held` are checkpoints kept outside the database, with where; which of
    them there are must be settled before this is run, so that the log has at least what they say."""

    def __init__(self, keys: Iterable[VerifierKey], held: Iterable[tuple[Checkpoint, str]] = (), options: Options | None = None):
        self.options = options or Options()
        self.report = Report()
        self._keys, self._held = list(keys), held
        for name, rests_on in trust.CHECKS.items():
            self.report.check(name, rests_on)

    def run(self) -> Report:
        """Raises CannotCheck, and the database's faults."""
        began, report = time.monotonic(), self.report
        heads = self._heads()
        self._archives = archived.read()
        report.add(*archived.check(self._archives, heads[0].log, heads[-1].last))
        self._ring = KeyRing(self._keys, {head.origin: head.log for head in heads})
        with read_only():
            self._ring.learn(checkpoint_store.hand_overs([head.log for head in heads]))
        wanted, self._beyond, smallest = outside.compare(self._held, {head.origin: head for head in heads}, report)
        openings = succession.read(heads, archived.until(self._archives), report)
        trees = [
            _Tree(head, Pin(head.origin, head.log, head.last), openings.get(head.log), known=smallest.get(head.origin))
            for head in heads
        ]
        report.pins = [tree.pin for tree in trees]
        for tree in trees:
            self._check_log(tree, wanted.get(tree.head.log, {}), sum(head.size for head in heads))
        for before, after in reversed(list(itertools.pairwise(trees))):
            if before.closed and after.pin.until is not None:
                before.pin.until = before.head.last
        if heads:
            with read_only() as session:
                report.add(*subjects.check_without_task(session, drift.tables(), self.options.from_seq, heads[-1].last, KEPT))
            self._check_rows()
        self._check_keys(trees)
        trust.describe(report, heads, self._ring.keys, self.options)
        archived.describe(report, self._archives)
        report.seconds = time.monotonic() - began
        return report

    def _heads(self) -> list[Head]:
        with read_only(), connection.cursor() as cursor:
            cursor.execute(_HEADS)
            rows = cursor.fetchall()
        heads = [Head(log, origin, size, bytes(edge), signed) for log, origin, size, edge, signed, *_ in rows]
        if not heads:
            raise CannotCheck("the table audit_log has no head: the database is not migrated, or its head was removed")
        if any(head.signed for head in heads) and not self._keys:
            raise CannotCheck("no verifier key: give the log's by --key (`manage.py audit_key --show` prints it)")
        first, last, stray = rows[0][5:]
        self._check_heads(heads, first, last, stray)
        return heads

    def _check_heads(self, heads: list[Head], first: int | None, last: int | None, stray: int | None) -> None:
        add = self.report.add
        for before, after in itertools.pairwise(heads):
            if after.log != before.last + 1:
                add(Finding("head", f"the log {after.origin} begins here, the one before ends with entry {before.last}", after.log))
        if first is not None and first < heads[0].log:
            add(Finding("head", "entries stand before the first log begins", first, heads[0].log - 1))
        if last is not None and last > heads[-1].last:
            add(Finding("head", "entries stand beyond the head", heads[-1].last + 1, last))
        if stray is not None:
            add(Finding("head", f"there are checkpoints of a log that begins with entry {stray}, and no such log"))

    def _check_log(self, tree: _Tree, wanted: dict[int, list[tuple[bytes, str]]], of: int) -> None:
        head, report = tree.head, self.report
        work = spans.Work(
            head.log, head.origin, self._ring, drift.tables(), self.options.from_seq, self.options.share,
            archived.until(self._archives),
        )  # fmt: skip
        sizes = {*wanted, head.size} if tree.opening else wanted
        for seen in self._look(work, list(spans.spans(head.size, sizes))):
            report.add(*seen.findings)
            report.entries += seen.span.end - seen.span.start
            report.recomputed += seen.recomputed
            self._join(tree, seen, wanted)
            self.options.progress("entries", report.entries, of)
        self._check_end(tree)

    def _look(self, work: spans.Work, every: list[spans.Span]) -> Iterator[spans.Seen]:
        jobs = min(self.options.jobs, len(every))
        if jobs > 1:
            yield from spans.by_processes(self._parameters(), work, every, jobs)
            return
        for span in every:
            with read_only() as session:
                yield spans.look(session, work, span)

    def _parameters(self) -> dict:
        """What another process connects with. Django's own adapters stay here."""
        parameters = connection.get_connection_params()
        for name in ("cursor_factory", "context"):
            parameters.pop(name, None)
        return parameters

    def _join(self, tree: _Tree, seen: spans.Seen, wanted: dict[int, list[tuple[bytes, str]]]) -> None:
        """Compares each root that is known for a size within the span, then adds the span."""
        bad = [finding.seq for finding in seen.findings if finding.check == "entries"]
        if tree.named is None and bad:
            tree.named = min(bad)
        tree.other_tile = tree.other_tile or seen.other_tile
        claims = [(size, root, "stored") for size, root in seen.stored]
        claims += [(size, root, _UNKNOWN) for size, root in seen.unknown]
        claims += [(size, root, where) for size in seen.span.sizes for root, where in wanted.get(size, ())]
        for size, root, where in sorted(claims):
            if where is _UNKNOWN:
                self._note_unknown(tree, size)
            else:
                tree.known = min(size, tree.known or size)
            if seen.root_at(tree.edge, size) != root:
                self._disagree(tree, size, f"the checkpoint of {size} entries ({where}) was signed for")
            elif where is not _UNKNOWN:
                tree.held = max(tree.held, size)
                if where != "stored":
                    tree.pin.until = max(tree.pin.until or 0, tree.head.log + size - 1)
        if tree.opening and seen.span.end == tree.opening.size:
            tree.closed = seen.root_at(tree.edge, seen.span.end) == tree.opening.root
            if not tree.closed:
                self._disagree(tree, seen.span.end, tree.opening.words)
        tree.edge.extend(seen.edge)

    def _note_unknown(self, tree: _Tree, size: int) -> None:
        """Before the first that a known key signed, another key did, as before a rotation; after it, nobody may have."""
        if tree.known is None or size < tree.known:
            tree.unchecked, tree.unchecked_until = tree.unchecked + 1, size
        else:
            self.report.add(Finding("checkpoints", f"the checkpoint of {size} entries: no signature by a known key of the log"))

    def _check_keys(self, trees: list[_Tree]) -> None:
        """Raises CannotCheck where the key that was given signed nothing, and nothing else is wrong."""
        signed = [tree for tree in trees if tree.head.signed]
        if signed and signed[-1].known is None and not self.report.tampered:
            raise CannotCheck(
                f"no checkpoint of {signed[-1].head.origin} is by a key that was given: give the verifier key in use by --key "
                "(`manage.py audit_key --show` prints it)"
            )
        for tree in trees:
            if tree.unchecked:
                until = tree.head.log + tree.unchecked_until - 1
                self.report.checks["checkpoints"].unchecked += tree.unchecked
                what = f"What {tree.unchecked:,} checkpoints of {tree.head.origin} up to entry {until} say"
                why = "they are by a key that was not given. Give the verifier key before too (--key)."
                self.report.not_proved.append(f"{what}: {why}")

    def _disagree(self, tree: _Tree, size: int, signed: str) -> None:
        """The first checkpoint that disagrees is the news; entries that are named already explain it."""
        first, last = tree.head.log + tree.held, tree.head.log + size - 1
        if tree.disagrees or (tree.named is not None and tree.named <= last):
            tree.disagrees = True
            return
        tree.disagrees = True
        if tree.other_tile is not None and tree.other_tile <= last:
            self.report.add(Finding("tree", f"it is not the entry that {signed}, and the tiles hold another", tree.other_tile))
        else:
            self.report.add(Finding("tree", f"one or more are not the entries that {signed}", first, last))

    def _check_end(self, tree: _Tree) -> None:
        self._check_length(tree)
        if tree.other_tile is not None and not tree.disagrees and tree.named is None:
            covered = tree.other_tile < tree.head.log + tree.held
            text = "it agrees with the checkpoints, the tiles hold another" if covered else "the tiles hold another entry"
            self.report.add(Finding("tree", text, tree.other_tile))
        if tree.edge.to_bytes() != tree.head.edge and tree.named is None and not tree.disagrees:
            self.report.add(Finding("head", f"the head of {tree.head.origin} holds another tree than that of its entries"))

    def _check_length(self, tree: _Tree) -> None:
        """The log against checkpoints that are longer. Where the missing entries were, only the checkpoints before tell."""
        head = tree.head
        longer = [(head.signed, "head", "stored")] if head.signed > head.size else []
        if head.origin in self._beyond:
            checkpoint, where = self._beyond[head.origin]
            longer.append((checkpoint.size, "outside", where))
        for size, check, where in longer:
            explained = tree.disagrees or tree.named is not None
            first = head.last + 1 if explained else head.log + tree.held
            text = f"cut: the log ends with entry {head.last}, a checkpoint of {size} entries was signed ({where})"
            self.report.add(Finding(check, text, first, head.log + size - 1))

    def _check_rows(self) -> None:
        done = 0
        for model in drift.audited_models():
            for found in drift.check(model):
                if isinstance(found, Finding):
                    self.report.add(found)
                else:
                    done += found
                    self.options.progress("rows", done, None)
        self.report.checks["drift"].detail = f"{done:,} rows"
