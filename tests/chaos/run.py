"""One run: start, write, strike, mend, wait until whole, check."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import django
import psycopg

from tests.chaos import verification
from tests.chaos.check import Head, LoggedEntry, Problems
from tests.chaos.record import Record
from tests.chaos.stack import Kafka, Stack

# Seconds: for the log to become whole once the faults are over, and for the writers to get something through.
WHOLE_TIMEOUT = 180.0
PROGRESS_TIMEOUT = 120.0
_ENTRIES = """
SELECT seq, event_id, event_type, subject_type, subject_id, version, task_id, actor_id, request_id, occurred_at, processed_at,
       topic, partition, "offset", digest, leaf_hash, event_data
FROM task_audit_log ORDER BY seq
"""


@dataclass
class Outcome:
    seed: str
    faults: Counter = field(default_factory=Counter)
    answers: Counter = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)
    acknowledged: int = 0
    entries: int = 0
    dead_letters: int = 0
    copies: int = 0
    seconds_to_whole: float = 0.0
    compared: str = ""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {sum(self.faults.values())} faults"]
        lines += [f"  {count:5d}  {name}" for name, count in sorted(self.faults.items())]
        lines += ["writers:"] + [f"  {count:5d}  {name}" for name, count in sorted(self.answers.items())]
        lines += [
            f"acknowledged changes: {self.acknowledged}; entries in the log: {self.entries}; copies on the topic: {self.copies}; "
            f"forgeries set aside: {self.dead_letters}",
            f"whole {self.seconds_to_whole:.1f} s after the last fault",
            f"verify_audit: {self.problems.counts['verify_audit']} findings; checkpoints on the topic: {self.compared}",
            ", ".join(f"{name} {self.problems.counts[name]}" for name in ("lost", "twice", "out of order")),
        ]
        lines += [f"WRONG: {count} × {name}" for name, count in sorted(self.problems.counts.items())]
        lines += [f"  {example}" for example in self.problems.examples]
        return "\n".join(lines)


class Run:
    """`say` gets a line for each step."""

    def __init__(self, faults: int, seed: str, kafka: Kafka | None, say):
        self._count, self._seed, self._say = faults, seed, say
        self._start = time.monotonic()
        self.home = Path(tempfile.mkdtemp(prefix="taskpulse-chaos-"))
        self.home.chmod(0o755)
        self._stack = Stack(self.home, f"chaos-{self.home.name[-8:]}", kafka)
        self._record = Record()
        self._outcome = Outcome(seed)
        self._watch: psycopg.Connection | None = None

    def execute(self) -> Outcome:
        try:
            self._stack.start()
            self._log(f"the stack is up, its log is {self.home}/chaos.log")
            django.setup()
            self._strike()
            self._check()
        finally:
            self._stack.stop()
        return self._outcome

    def _log(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._start:7.1f} s  {text}")

    def _strike(self) -> None:
        from tests.chaos.faults import Faults
        from tests.chaos.messages import Messages

        stack = self._stack
        self._messages = Messages(f"{self._seed} messages", stack.topic, stack.bootstrap_servers, stack.database_url)
        faults = Faults(stack, self._messages, f"{self._seed} faults")
        writers = self._writers()
        try:
            self._wait_for_progress(40)
            for number in range(1, self._count + 1):
                name, what = faults.strike()
                self._outcome.faults[name] += 1
                self._log(f"{number:4d}  {what}")
                time.sleep(faults.pause())
                faults.mend(time.monotonic())
                if number % 10 == 0 and number < self._count:
                    self._wait_for_progress(30, faults)
        finally:
            faults.mend_all()
            mended = time.monotonic()
            for writer in writers:
                writer.stop()
        for writer in writers:
            writer.join(60)
        self._wait_until_whole(mended)

    def _writers(self) -> list:
        from tests.chaos.writers import ApiWriter, BulkWriter, SqlWriter, Tasks

        tasks, token = Tasks(), self._stack.credentials["token"]
        writers = [
            ApiWriter(self._stack.url, token, f"api-{n}", f"{self._seed} api {n}", tasks, self._record, 0.03) for n in range(3)
        ]
        writers.append(SqlWriter(self._stack.database_url, "sql", f"{self._seed} sql", tasks, self._record, 0.08))
        writers.append(BulkWriter("bulk", f"{self._seed} bulk", tasks, self._record, 0.8))
        for writer in writers:
            writer.start()
        return writers

    def _wait_for_progress(self, changes: int, faults=None) -> None:
        """The writers and the recorder get something through: faults on a stack that is down prove nothing."""
        end = time.monotonic() + PROGRESS_TIMEOUT
        acknowledged, recorded = len(self._record.changes) + changes, None
        while time.monotonic() < end:
            size = self._log_size()
            if size is not None and recorded is None:
                recorded = size + changes
            if size is not None and size >= recorded and len(self._record.changes) >= acknowledged:
                return
            time.sleep(0.05)
            if faults is not None:
                faults.mend(time.monotonic())
        self._outcome.problems.add("standstill", f"no {changes} changes acknowledged and recorded within {PROGRESS_TIMEOUT:.0f} s")

    def _log_size(self) -> int | None:
        """None while PostgreSQL is away."""
        try:
            if self._watch is None or self._watch.closed:
                self._watch = psycopg.connect(self._stack.database_url, connect_timeout=5, autocommit=True)
            return self._watch.execute("SELECT sum(size)::bigint FROM audit_log").fetchone()[0]
        except psycopg.OperationalError:
            self._watch = None
            return None

    def _wait_until_whole(self, mended: float) -> None:
        """Everything that was written, and one more lot of forgeries, is recorded or set aside."""
        end = time.monotonic() + WHOLE_TIMEOUT
        final: set[bytes] | None = None
        waiting: object = "nothing was asked yet"
        while time.monotonic() < end:
            try:
                with psycopg.connect(self._stack.database_url, connect_timeout=5, autocommit=True) as session:
                    if final is None:
                        verification.make_last_change(session)
                        before = set(self._messages.certain)
                        self._messages.forge(session, 40)
                        final = self._messages.certain - before or None
                    while final is not None and (waiting := self._waiting(session)) and time.monotonic() < end:
                        time.sleep(0.05)
                    if final is not None and not waiting:
                        break
            except psycopg.OperationalError as error:
                waiting = f"PostgreSQL: {error}"
            time.sleep(0.1)
        else:
            self._outcome.problems.add("not whole", f"after {WHOLE_TIMEOUT:.0f} s: {waiting}")
        self._outcome.seconds_to_whole = time.monotonic() - mended
        self._log(f"whole after {self._outcome.seconds_to_whole:.1f} s")

    def _waiting(self, session: psycopg.Connection) -> str | None:
        (rows,) = session.execute("SELECT count(*) FROM tasks_outbox").fetchone()
        if rows:
            return f"{rows} outbox rows"
        found = {bytes(digest) for (digest,) in session.execute("SELECT value_digest FROM audit_dead_letter")}
        missing = self._messages.certain - found
        return f"{len(missing)} forgeries not set aside" if missing else None

    def _check(self) -> None:
        from django.core.management import call_command

        from tests.chaos import check

        outcome, record = self._outcome, self._record
        problems = outcome.problems
        with psycopg.connect(self._stack.database_url, autocommit=True) as session:
            verification.wait_until_published(session, problems)
        report = verification.verify(problems, call_command)
        outcome.compared = next(found["detail"] for found in report["checks"] if found["name"] == "outside")
        with psycopg.connect(self._stack.database_url) as session:
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            (held,) = session.execute("SELECT count(*) FROM tasks_outbox WHERE held_at IS NOT NULL").fetchone()
            if held:
                problems.add("held", f"{held} true events are held")
            head = Head(*session.execute("SELECT origin, first_seq, size, edge FROM audit_log").fetchone())
            ledger = check.Ledger(head, problems)
            ledger.read(_entries(session))
            rows = dict(session.execute("SELECT id::text, task_document(t) FROM tasks_task t").fetchall())
            found = {bytes(digest) for (digest,) in session.execute("SELECT value_digest FROM audit_dead_letter")}
        check.acknowledged(ledger, record, problems)
        check.replayed(ledger, rows, problems)
        check.dead_letters(found, self._messages.forged, self._messages.certain, problems)
        for what in record.unexpected:
            problems.add("unexpected", what)
        outcome.answers = record.answers
        outcome.acknowledged, outcome.entries, outcome.dead_letters = len(record.changes), head.size, len(found)
        outcome.copies = self._messages.copies


def _entries(session: psycopg.Connection) -> Iterator[LoggedEntry]:
    from tasks import events

    with session.cursor("entries") as cursor:
        cursor.itersize = 2_000
        for *columns, document in cursor.execute(_ENTRIES):
            yield LoggedEntry(*columns, events.canonical(document), document)
