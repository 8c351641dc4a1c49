"""Events that account for what would else be tampering: an erasure (audit/redaction.py), an archive (audit/archive_event.py).

Such an event is an entry of the log, or still on its way there: it waits in the outbox. There the owner of the database can
write what he likes, and no checkpoint covers it. So one that waits counts for WAITS seconds from its row's creation on, and
never where it is held; the report says how many there are.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

import orjson

from audit.verification.report import Report
from tasks.events import canonical

# Seconds. An event is in the log within one as a rule; `TaskPulseAuditLate` (deploy/monitoring) fires after 240.
WAITS = 600

_EVENTS = """
SELECT event_id::text, seq, event_data::text, encode(digest, 'hex'), true FROM task_audit_log
WHERE event_id = ANY (%(ids)s::text[]::uuid[])
UNION ALL
SELECT event_id::text, NULL, convert_from(payload, 'UTF8'), encode(sha256(payload), 'hex'),
  held_at IS NULL AND created_at BETWEEN clock_timestamp() - make_interval(secs => %(waits)s) AND clock_timestamp()
FROM tasks_outbox WHERE event_id = ANY (%(ids)s::text[]::uuid[])
"""


@dataclass(frozen=True, slots=True)
class Account:
    """`seq` is the event's own, None while it waits; it `counts` unless it waits for too long, or is held."""

    event: object
    seq: int | None
    counts: bool

    @property
    def waits(self) -> bool:
        return self.seq is None

    def after(self, seq: int) -> bool:
        """Whether the event comes after entry `seq`, as one that tells of it must."""
        return self.seq is None or self.seq > seq


# It is waited for, and does not count.
TOO_LONG = f"waits in the outbox, held or for more than {WAITS} seconds"


def find(connection, ids: Iterable[str]) -> dict[str, Account]:
    """The events of these ids whose bytes are those of their digest, from the log and the outbox in one statement."""
    wanted = [event_id for event_id in set(ids) if _is_uuid(event_id)]
    if not wanted:
        return {}
    with connection.cursor(binary=True) as cursor:
        found = cursor.execute(_EVENTS, {"ids": wanted, "waits": WAITS}).fetchall()
    accounts = {}
    for event_id, seq, text, digest, counts in found:
        event, its_own = parsed(text)
        if its_own == digest:
            accounts[event_id] = Account(event, seq, counts)
    return accounts


def parsed(text: str) -> tuple[object, str | None]:
    """A document and its digest in hexadecimal; None for both where it has no canonical form."""
    try:
        document = orjson.loads(text)
        return document, sha256(canonical(document)).hexdigest()
    except (ValueError, TypeError):
        return None, None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except (ValueError, AttributeError, TypeError):
        return False


def describe(report: Report, erased: Counter[str]) -> None:
    """For a report's `not_proved`: `erased` counts the erased entries whose event waits, by its id."""
    if erased:
        report.not_proved.append(
            f"That {erased.total():,} erased entries were erased by an act on record: {len(erased):,} events audit.redacted, which "
            "account for them, still wait in the outbox, where whoever owns the database can have put them. Verify again when they "
            f"are in the log: {WAITS} seconds after it was written one counts no more."
        )
