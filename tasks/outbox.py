"""The outbox: the set of changes that are committed and not yet in the audit log.

A row lives from the change until its audit entry is committed; the recorder inserts the entry and deletes the row in
one transaction. Payload and digest are made once, in the transaction of the change, and never altered (a trigger
refuses it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import connections, models, transaction
from django.db.models.functions import Now
from django.db.transaction import TransactionManagementError

from tasks import context, events


class OutboxEvent(models.Model):
    id = models.BigAutoField(primary_key=True)
    event_id = models.UUIDField(unique=True)
    subject_type = models.TextField()
    subject_id = models.TextField()
    # Null for an act without a row, which has no order rule.
    version = models.BigIntegerField(null=True)
    task_id = models.UUIDField(null=True)
    payload = models.BinaryField()
    digest = models.GeneratedField(
        expression=models.Func("payload", function="sha256"), output_field=models.BinaryField(), db_persist=True
    )
    created_at = models.DateTimeField(db_default=Now())
    published_at = models.DateTimeField(null=True)
    attempts = models.IntegerField(db_default=0)
    held_at = models.DateTimeField(null=True)
    held_reason = models.TextField(null=True)

    class Meta:
        db_table = "tasks_outbox"
        verbose_name = "outbox event"
        constraints = [
            models.UniqueConstraint(fields=["subject_type", "subject_id", "version"], name="tasks_outbox_subject_version"),
            models.CheckConstraint(
                condition=models.Q(held_at=None, held_reason=None) | models.Q(held_at__isnull=False, held_reason__isnull=False),
                name="tasks_outbox_held_has_reason",
            ),
        ]
        indexes = [
            # The relay's poll: unpublished rows, oldest first. Small, since a row leaves it when it is published.
            models.Index(fields=["id"], name="tasks_outbox_unpublished", condition=models.Q(published_at=None, held_at=None)),
            # The few rows that wait for a person.
            models.Index(fields=["held_at"], name="tasks_outbox_held", condition=models.Q(held_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.subject_type}/{self.subject_id} version {self.version}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one subject: what the event says, short of who did it."""

    subject_type: str
    subject_id: str
    action: str
    version: int | None
    moment: datetime | events.Moment
    task_id: UUID | None
    document: dict
    changed: dict


_INSERT = "INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload) VALUES "
_ROW = "(%s, %s, %s, %s, %s, %s)"
_INSERT_ONE = _INSERT + _ROW
# A task's event that bears MARK instead of the row's time; without payload, which is refused, where the row is not as foretold.
_INSERT_FORETOLD = f"""{_INSERT}(%s, %s, %s, %s, %s, convert_to(replace(%s, repeat(chr(1), {len(events.MARK)}), (
  SELECT {events.rfc3339_sql("t.updated_at")} FROM tasks_task t
  WHERE t.id = %s AND t.version = %s AND t.changed_in = pg_current_xact_id())), 'UTF8'))
"""  # noqa: S608 (only constants)
_ROWS_A_STATEMENT = 1_000


def append(changes: Sequence[Change], using: str = "default") -> None:
    """Writes the events of `changes` in the caller's transaction; one statement for each 1,000.

    Raises TransactionManagementError outside a transaction: an event must commit with its change or not at all.
    """
    connection = connections[using]
    if not connection.in_atomic_block:
        raise TransactionManagementError("outbox.append() must run in the transaction of the change it records")
    current = context.current()
    attributes = current.attributes()
    made = []
    with context.captured():
        for start in range(0, len(changes), _ROWS_A_STATEMENT):
            batch = changes[start : start + _ROWS_A_STATEMENT]
            parameters = []
            for change in batch:
                event_id, payload = events.build(
                    subject_type=change.subject_type, subject_id=change.subject_id, action=change.action, version=change.version,
                    moment=change.moment, task_id=change.task_id, document=change.document, changed=change.changed,
                    attributes=attributes,
                )  # fmt: skip
                made.append((event_id, change.task_id))
                parameters += [event_id, change.subject_type, change.subject_id, change.version, change.task_id, payload]
            if len(batch) == 1 and events.MARK in payload:
                told = [*parameters[:-1], payload.decode(), change.task_id, change.version]
                connection.send_later(_INSERT_FORETOLD, told)
            elif len(batch) == 1:
                connection.send_later(_INSERT_ONE, parameters)
            else:
                with connection.cursor() as cursor:
                    cursor.execute(_INSERT + ", ".join([_ROW] * len(batch)), parameters)
    if current.request_id is not None:
        connection.on_commit(partial(current.note, made))


def release(ids: Sequence[int], using: str = "default") -> int:
    """Lets held rows go out again, at once and in their order; idempotent. Returns how many were held.

    Each leaves an event `audit.held.released`. A procedure of the database does both: a role that could itself UPDATE
    could leave out the event.
    """
    # In a transaction, so that the database is told who does it.
    with transaction.atomic(using), connections[using].cursor() as cursor:
        cursor.execute("CALL tasks_outbox_release(%s::bigint[])", [list(ids)])
        return cursor.fetchone()[0]


def look(id: int, using: str = "default") -> None:
    """Leaves an event `audit.held.viewed` if the row is held: somebody is shown its bytes."""
    with transaction.atomic(using), connections[using].cursor() as cursor:
        cursor.execute("CALL tasks_outbox_look(%s)", [id])


# What the console counts at most: beyond it, "10,000+" says enough.
COUNTED = 10_000


def state() -> dict:
    """What waits here: `pending` and `held` (counted up to one more than COUNTED), `oldest_at`, and the first held
    rows' `reasons`. Three look-ups by index, one statement."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT count(*) FROM (SELECT FROM tasks_outbox LIMIT %(most)s) pending),
                   (SELECT count(*) FROM (SELECT FROM tasks_outbox WHERE held_at IS NOT NULL LIMIT %(most)s) held),
                   (SELECT created_at FROM tasks_outbox ORDER BY id LIMIT 1),
                   (SELECT array_agg(DISTINCT held_reason)
                    FROM (SELECT held_reason FROM tasks_outbox WHERE held_at IS NOT NULL ORDER BY held_at LIMIT 20) first)
            """,
            {"most": COUNTED + 1},
        )
        pending, held, oldest, reasons = cursor.fetchone()
    return {"pending": pending, "held": held, "oldest_at": oldest, "reasons": reasons or []}
