"""What was archived: entries that are no longer here, whose leaves stay in the tiles and so in the tree.

An archive is what its event `audit.archived` says (audit/archive_event.py); a row without it excuses no missing entry. The
files are checked by deploy/verify/taskpulse_verify.py; here they are only named. Knows nothing of Django.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from audit import archive_event
from audit.archive_event import PARTITION
from audit.verification import accounts
from audit.verification.report import Finding, Report

# Nothing is archived while this is held: the last thing that archiving does is to detach, for which it needs all of the log's
# locks, and rows, event and detaching are one transaction. So what is read under it is of one state, and what is missing
# from the log now is told of in audit_archive now.
_LOCK = "LOCK TABLE task_audit_log IN ACCESS SHARE MODE"
_LOG = "SELECT min(first_seq), max(first_seq + size - 1) FROM audit_log"
_PRESENT = "SELECT count(*) FROM task_audit_log WHERE seq BETWEEN %s AND %s"


@dataclass(frozen=True, slots=True)
class Archives:
    """`rows` as archive_event.ARCHIVES has them; the first `sound` are accounted for, `wrong` says what is wrong with the next.
    `account` is the event that accounts for them."""

    rows: list[tuple]
    sound: int = 0
    wrong: str = ""
    account: accounts.Account | None = None

    @property
    def until(self) -> int:
        """The last entry that is archived, 0 if there is none."""
        return self.rows[self.sound - 1][1] if self.sound else 0


def read(connection) -> Archives:
    """In the caller's transaction, which keeps the log from being archived until it ends."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK)
        rows = cursor.execute(archive_event.ARCHIVES).fetchall()
        first, last = cursor.execute(_LOG).fetchone()
    count, wrong = _in_order(rows, first, last)
    found = accounts.find(connection, [row[5] for row in rows[:count]])
    for sound in range(count, 0, -1):
        _, last_seq, file, _, _, event_id = rows[sound - 1]
        account = found.get(event_id)
        if account is not None and account.after(last_seq) and archive_event.accounts_for(account.event, rows[:sound]):
            return Archives(rows, sound, wrong, account)
        wrong = f"the archive {file} is not what an event {archive_event.EVENT_TYPE} says"
    return Archives(rows, 0, wrong)


def _in_order(rows: list[tuple], first: int | None, last: int | None) -> tuple[int, str]:
    """How many of the rows are the oldest entries of a log, one file after the other, and what is wrong with the next."""
    expected = first
    for number, (first_seq, last_seq, file, *_) in enumerate(rows):
        if first_seq != expected or not first_seq <= last_seq <= last:
            return number, f"the archive {file} is not what follows upon entry {(expected or 1) - 1} of this log"
        if last_seq % PARTITION:
            return number, f"the archive {file} does not end where a partition ends"
        expected = last_seq + 1
    return len(rows), ""


def check(connection, archives: Archives) -> Iterator[Finding]:
    """In the transaction in which they were read."""
    for first, last, *_ in archives.rows[archives.sound :][:1]:
        yield Finding("head", archives.wrong, first, max(first, last))
    newest = archives.rows[: archives.sound][-1:]
    for first, last, file, *_, event_id in newest:
        if not archives.account.counts:
            yield Finding("head", f"the event {event_id} of the archive {file} {accounts.TOO_LONG}", first, last)
        if archive_event.subjects_digest(connection) != archives.account.event["data"]["audit"]["subjects"]:
            text = "what is kept of archived subjects (audit_archived_subject) is not what was kept when they were archived"
            yield Finding("head", text)
    for first, last, file, *_ in archives.rows[: archives.sound]:
        present = _present(connection, first, last)
        if 0 < present < last - first + 1:
            text = f"archived as {file}, and {present:,} of its {last - first + 1:,} entries are here: all or none must be"
            yield Finding("head", text, first, last)


def _present(connection, first: int, last: int) -> int:
    with connection.cursor() as cursor:
        return cursor.execute(_PRESENT, [first, last]).fetchone()[0]


def describe(report: Report, archives: Archives) -> None:
    """For a report's `not_proved`."""
    for first, last, file, sha256, *_ in archives.rows[: archives.sound]:
        report.not_proved.append(
            f"What entries {first} to {last} say: they are archived, only their leaves are in the tree. "
            f"Check {file} (SHA-256 {sha256}) with deploy/verify/taskpulse_verify.py."
        )
    if archives.account is not None and archives.account.waits:
        report.not_proved.append(
            f"That the newest archive is an act on record: its event {archive_event.EVENT_TYPE} still waits in the outbox. "
            f"Verify again when it is in the log: {accounts.WAITS} seconds after it was written it counts no more."
        )
