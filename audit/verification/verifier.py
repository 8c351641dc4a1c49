"""The whole of a verification: the log's heads, its spans joined to the tree, the checkpoints, the live rows."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from django.db import connection

from audit import checkpoint_store
from audit.checkpoint import Checkpoint
from audit.signed_note import VerifierKey
from audit.verification import accounts, archived, drift, outside, served, served_log, spans, subjects, succession, trust
from audit.verification.heads import Head
from audit.verification.heads import read as heads_of
from audit.verification.joining import Tree
from audit.verification.reading import read_only
from audit.verification.report import KEPT, CannotCheck, Finding, Pin, Report


@dataclass(frozen=True, slots=True)
class Options:
    """`jobs` processes; `share` of the entries from `from_seq` on are recomputed, all others enter the tree by their leaves.
    `restored`: of a dump, after which checkpoints were signed that it does not store."""

    jobs: int = 1
    from_seq: int = 1
    share: float = 1.0
    restored: bool = False
    progress: Callable[[str, int, int | None], None] = lambda what, done, of: None


class Verifier:
    """`keys` verify checkpoints; `held` are checkpoints kept outside the database, with where; which of
    them there are must be settled before this is run, so that the log has at least what they say."""

    def __init__(self, keys: Iterable[VerifierKey], held: Iterable[tuple[Checkpoint, str]] = (), options: Options | None = None):
        self.options = options or Options()
        self.report = Report()
        self._keys, self._held = list(keys), held
        self._erased_by_waiting: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        for name, rests_on in trust.CHECKS.items():
            self.report.check(name, rests_on)
        self.report.check("served", served.RESTS_ON)

    def run(self) -> Report:
        """Raises CannotCheck, and the database's faults."""
        began, report = time.monotonic(), self.report
        heads = heads_of(report)
        if any(head.signed for head in heads) and not self._keys:
            raise CannotCheck("no verifier key: give the log's by --key (`manage.py audit_key --show` prints it)")
        with read_only():
            self._ring = checkpoint_store.ring(self._keys)
        openings = succession.read(heads, report)
        by_origin = {head.origin: head for head in heads}
        held = outside.compare(self._held, by_origin, report, self._may_be_unstored(openings))
        trees = [
            Tree(head, report, Pin(head.origin, head.log, head.last), openings.get(head.log), held.smallest.get(head.origin))
            for head in heads
        ]
        report.pins = [tree.pin for tree in trees]
        for tree in trees:
            if not self.options.restored:
                tree.unstored = held.unstored.get(tree.head.origin, 0)
            self._check_log(tree, held.wanted.get(tree.head.log, {}), sum(head.size for head in heads))
            tree.finish(held.beyond.get(tree.head.origin))
        for before, after in reversed(list(itertools.zip_longest(trees, trees[1:]))):
            before.settle(after)
        if heads:
            with read_only() as session:
                report.add(*subjects.check_without_task(session, drift.tables(), self.options.from_seq, heads[-1].last, KEPT))
            self._check_rows()
        # Last, so that what was archived meanwhile is looked at too.
        with read_only() as session:
            archives = archived.read(session)
            report.add(*archived.check(session, archives))
            report.add(*served_log.check_strays(session))
        self._check_keys(trees)
        trust.describe(report, heads, self._ring.keys, self.options)
        served_log.describe(report, self._served, self.options.share)
        accounts.describe(report, self._erased_by_waiting)
        archived.describe(report, archives)
        report.seconds = time.monotonic() - began
        return report

    def _may_be_unstored(self, openings: dict[int, succession.Opening]) -> Callable[[Head, Checkpoint], bool]:
        """Whether the database may lack a checkpoint that somebody outside has: one that was signed after the dump, where it is a
        restored one, or where an opening says so."""

        def check(head: Head, checkpoint: Checkpoint) -> bool:
            opening = openings.get(head.log)
            promised = opening and opening.promised
            return head.signed < checkpoint.size and (
                self.options.restored or (promised is not None and checkpoint.size <= promised.size)
            )

        return check

    def _check_log(self, tree: Tree, wanted: dict[int, list[tuple[bytes, str]]], of: int) -> None:
        head, report, options = tree.head, self.report, self.options
        work = spans.Work(head.log, head.origin, self._ring, drift.tables(), options.from_seq, options.share)
        for seen in self._look(work, list(spans.spans(head.size, tree.sizes(wanted)))):
            report.add(*seen.findings)
            report.entries += seen.span.end - seen.span.start
            report.recomputed += seen.recomputed
            self._erased_by_waiting += seen.erased_by_waiting
            self._served += seen.served
            tree.join(seen, wanted)
            self.options.progress("entries", report.entries, of)
        with read_only() as session:
            report.add(*served_log.check_log(session, head.log, min(head.signed, head.size), self._served))

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

    def _check_keys(self, trees: list[Tree]) -> None:
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

    def _check_rows(self) -> None:
        done = 0
        for model in drift.audited_models():
            for found in drift.check(model):
                if isinstance(found, Finding):
                    self.report.add(found)
                else:
                    done += found
                    self.options.progress("rows", done, None)
        self.report.checks["drift"].detail = f"{done:,} rows" + self._check_archived_rows()

    def _check_archived_rows(self) -> str:
        """Returns how many there were, in words."""
        done = 0
        for kind, table in drift.tables().items():
            count, after = 1, ""
            while count:
                with read_only() as session:
                    found, count, after = subjects.check_archived(session, kind, table, after)
                self.report.add(*found)
                done += count
        return f", {done:,} archived subjects" if done else ""
