"""One log's tree, joined from its spans, against whatever states the root of its first so many entries."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from audit.checkpoint import Checkpoint
from audit.merkle import Edge
from audit.verification import outside, spans
from audit.verification.heads import Head
from audit.verification.report import Finding, Loss, Pin, Report
from audit.verification.succession import Opening

# Where a checkpoint is stored; and where by a key that is not known, so that it states a root and no more.
_STORED, _UNKNOWN = "stored", "stored, by a key that is not known"
# By size: roots that somebody outside holds, and where.
Wanted = Mapping[int, list[tuple[bytes, str]]]


@dataclass(slots=True)
class Tree:
    """A log as far as it is joined. `opening` is the successor's first entry, which says with what the log was closed."""

    head: Head
    report: Report
    pin: Pin
    opening: Opening | None = None
    # The smallest checkpoint that a known key signed; the largest one before it, by keys that are not known, and their number.
    known: int | None = None
    unchecked: int = 0
    unchecked_until: int = 0
    edge: Edge = field(default_factory=Edge)
    held: int = 0  # the largest size whose checkpoint agrees
    closed: bool = False  # with the root that the opening says
    covered: bool = False  # by a checkpoint, its own or through the logs after it
    lost: bool = False  # what the opening names as promised is not here
    # How many checkpoints outside are not stored, which the opening names; and what contradicts the log unless they were lost.
    unstored: int = 0
    disputes: list[Finding] = field(default_factory=list)
    other_tile: int | None = None
    named: int | None = None  # the first entry that is known to be wrong
    disagrees: bool = False

    def sizes(self, wanted: Wanted) -> set[int]:
        """Whose roots are asked for."""
        sizes = set(wanted)
        if self.opening is not None:
            sizes.add(self.opening.size)
            if (promised := self.opening.promised) is not None and 0 < promised.size <= self.head.size:
                sizes.add(promised.size)
        return sizes

    def join(self, seen: spans.Seen, wanted: Wanted) -> None:
        """Compares each root that is known for a size within the span, then adds the span."""
        bad = [finding.seq for finding in seen.findings if finding.check == "entries"]
        if self.named is None and bad:
            self.named = min(bad)
        self.other_tile = self.other_tile or seen.other_tile
        claims = [(size, root, _STORED) for size, root in seen.stored]
        claims += [(size, root, _UNKNOWN) for size, root in seen.unknown]
        claims += [(size, root, where) for size in seen.span.sizes for root, where in wanted.get(size, ())]
        for size, root, where in sorted(claims):
            self._compare(size, root, where, seen.root_at(self.edge, size))
        self._compare_with_opening(seen)
        self.edge.extend(seen.edge)

    def _compare(self, size: int, root: bytes, where: str, own: bytes) -> None:
        if where is _UNKNOWN:
            self._note_unknown(size)
        else:
            self.known = min(size, self.known or size)
        signed = f"the checkpoint of {size} entries ({where}) was signed for"
        if root != own and where not in (_STORED, _UNKNOWN) and self._is_promised(size, root):
            last = self.head.log + size - 1
            self.disputes.append(Finding("tree", f"one or more are not the entries that {signed}", self.head.log + self.held, last))
        elif root != own:
            self._disagree(size, signed)
        elif where is not _UNKNOWN:
            self.held = max(self.held, size)
            if where is not _STORED:
                self.pin.until = max(self.pin.until or 0, self.head.log + size - 1)

    def _is_promised(self, size: int, root: bytes) -> bool:
        """Whether the opening says that so much was signed for. Of the checkpoint that it names, the root too."""
        promised = self.opening and self.opening.promised
        return promised is not None and (size < promised.size or (size, root) == (promised.size, promised.root))

    def _note_unknown(self, size: int) -> None:
        """Before the first that a known key signed, another key did, as before a rotation; after it, nobody may have."""
        if self.known is None or size < self.known:
            self.unchecked, self.unchecked_until = self.unchecked + 1, size
        else:
            self.report.add(Finding("checkpoints", f"the checkpoint of {size} entries: no signature by a known key of the log"))

    def _compare_with_opening(self, seen: spans.Seen) -> None:
        opening = self.opening
        if opening is None:
            return
        promised = opening.promised
        if promised is not None and (promised.size > self.head.size or seen.span.start < promised.size <= seen.span.end):
            self.lost = promised.size > self.head.size or seen.root_at(self.edge, promised.size) != promised.root
        if seen.span.end == opening.size:
            self.closed = seen.root_at(self.edge, opening.size) == opening.root
            if not self.closed:
                self._disagree(opening.size, f"stood there when the log was closed, as entry {opening.seq} says")

    def _disagree(self, size: int, signed: str) -> None:
        """The first that disagrees is the news; entries that are named already explain it."""
        first, last = self.head.log + self.held, self.head.log + size - 1
        explained = self.disagrees or (self.named is not None and self.named <= last)
        self.disagrees = True
        if explained:
            return
        if self.other_tile is not None and self.other_tile <= last:
            self.report.add(Finding("tree", f"it is not the entry that {signed}, and the tiles hold another", self.other_tile))
        else:
            self.report.add(Finding("tree", f"one or more are not the entries that {signed}", first, last))

    def finish(self, beyond: tuple[Checkpoint, str] | None) -> None:
        """When all spans are joined; `beyond` is the largest checkpoint outside that is longer than the log."""
        self._check_length(beyond)
        if self.other_tile is not None and not self.disagrees and self.named is None:
            covered = self.other_tile < self.head.log + self.held
            text = "it agrees with the checkpoints, the tiles hold another" if covered else "the tiles hold another entry"
            self.report.add(Finding("tree", text, self.other_tile))
        if self.edge.to_bytes() != self.head.edge and self.named is None and not self.disagrees:
            self.report.add(Finding("head", f"the head of {self.head.origin} holds another tree than that of its entries"))

    def _check_length(self, beyond: tuple[Checkpoint, str] | None) -> None:
        """The log against checkpoints that are longer. Where the missing entries were, only the checkpoints before tell."""
        head = self.head
        if head.signed > head.size:
            self.report.add(self._cut("head", head.signed, "stored"))
        if beyond is not None:
            checkpoint, where = beyond
            cut = self._cut("outside", checkpoint.size, where)
            if self._is_promised(checkpoint.size, checkpoint.root):
                self.disputes.append(cut)
            else:
                self.report.add(cut)

    def _cut(self, check: str, size: int, where: str) -> Finding:
        head, explained = self.head, self.disagrees or self.named is not None
        first = head.last + 1 if explained else head.log + self.held
        text = f"cut: the log ends with entry {head.last}, a checkpoint of {size} entries was signed ({where})"
        return Finding(check, text, first, head.log + size - 1)

    def settle(self, after: "Tree | None") -> None:
        """When the log after it is joined too: what that log's first entry accounts for is a loss, and no tampering. A
        checkpoint must cover that entry: what nobody signed accounts for nothing."""
        closed = self.closed and after is not None and after.covered
        self.covered = self.held > 0 or closed
        if closed and after.pin.until is not None:
            self.pin.until = self.head.last
        excused = closed and self.named is None
        if self.unstored and not excused:
            self.report.add(outside.unstored(self.unstored))
        if excused and self.lost:
            first, last = self.head.log + self.held, self.head.log + self.opening.promised.size - 1
            self.report.losses.append(Loss(self.head.origin, first, last, self.head.last, self.opening.seq))
        else:
            self.report.add(*self.disputes)
