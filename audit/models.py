"""The ledger: entries, the log's head, and what arrived but is no true event.

No foreign key and no limit on text: an entry outlives its task, its user and the code that wrote it.
"""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models.functions import Now


class Entry(models.Model):
    """One recorded event. Append-only: PostgreSQL refuses UPDATE, DELETE and TRUNCATE, erasure (audit/erasure.py) apart.

    The table is partitioned by `seq` (10 million a partition, see the migration), so uniqueness of `event_id` holds
    within a partition; that an event is recorded once rests on its outbox row.
    """

    seq = models.BigIntegerField(primary_key=True)
    event_id = models.UUIDField()
    event_type = models.TextField()
    subject_type = models.TextField()
    subject_id = models.TextField()
    version = models.BigIntegerField(null=True)
    task_id = models.UUIDField(null=True)
    actor_id = models.TextField(null=True)
    actor_name = models.TextField(null=True)
    actor_type = models.TextField(null=True)
    request_id = models.TextField(null=True)
    event_data = models.JSONField()
    occurred_at = models.DateTimeField()
    processed_at = models.DateTimeField()
    topic = models.TextField()
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    digest = models.BinaryField()
    leaf_hash = models.BinaryField()

    class Meta:
        db_table = "task_audit_log"
        ordering = ["-seq"]
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["task_id", "seq"], name="task_audit_log_task"),
            models.Index(fields=["actor_id", "seq"], name="task_audit_log_actor"),
            BrinIndex(fields=["occurred_at"], name="task_audit_log_time"),
        ]

    def __str__(self) -> str:
        return f"{self.seq}: {self.event_type} {self.subject_type}/{self.subject_id}"

    @property
    def changes(self) -> dict:
        """`{field: {"from": …, "to": …}}`; empty for a deletion and for what is no change of a row."""
        return (self.event_data.get("data") or {}).get("changes") or {}

    @property
    def reason(self) -> str | None:
        return self.event_data.get("reason")


class LogHead(models.Model):
    """The head of one Merkle log (RFC 6962 hashing): lock and state of the appender in one row.

    `edge` is the tree's right edge: the roots of its perfect subtrees, largest first, 32 bytes each. `size` counts the
    entries of this log, `first_seq` is the first of them; the present log is the one with the greatest `first_seq`.
    """

    origin = models.TextField(primary_key=True)
    first_seq = models.BigIntegerField(unique=True)
    size = models.BigIntegerField(db_default=0)
    edge = models.BinaryField(db_default=b"")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_log"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.origin


class Checkpoint(models.Model):
    """A signed statement of a log's size and root (audit/checkpoint.py). Append-only, and only growing: PostgreSQL refuses
    a second one of a size and any smaller one. `log` is the log's `first_seq`, here and below."""

    pk = models.CompositePrimaryKey("log", "size")
    log = models.BigIntegerField()
    size = models.BigIntegerField()
    root = models.BinaryField()
    note = models.BinaryField()
    signed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_checkpoint"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.log}: {self.size}"


class Cosignature(models.Model):
    """A witness's signature line of a checkpoint. Append-only."""

    pk = models.CompositePrimaryKey("log", "size", "witness")
    log = models.BigIntegerField()
    size = models.BigIntegerField()
    witness = models.TextField()
    line = models.TextField()
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_cosignature"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.log}: {self.size} by {self.witness}"


class Tile(models.Model):
    """256 consecutive hashes of the tree (C2SP tlog-tiles), and their own root. Append-only; never archived.

    What is not yet 256 wide is read from the entries. Only the last tile of a closed log is stored narrower, and has no
    root.
    """

    pk = models.CompositePrimaryKey("log", "level", "number")
    log = models.BigIntegerField()
    level = models.SmallIntegerField()
    number = models.BigIntegerField()
    hashes = models.BinaryField()
    root = models.BinaryField(null=True)

    class Meta:
        db_table = "audit_tile"
        default_permissions = ()
        constraints = [
            models.CheckConstraint(condition=models.Q(level__gte=0, level__lte=63, number__gte=0), name="audit_tile_place")
        ]

    def __str__(self) -> str:
        return f"{self.log}: {self.level}/{self.number}"


class Bundle(models.Model):
    """The leaf records of 256 consecutive entries (an entry bundle of tlog-tiles), gzipped as they are served. Append-only;
    never archived. Of a closed log the last may hold fewer."""

    pk = models.CompositePrimaryKey("log", "number")
    log = models.BigIntegerField()
    number = models.BigIntegerField()
    records = models.BinaryField()

    class Meta:
        db_table = "audit_bundle"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.log}: {self.number}"


class Archive(models.Model):
    """Entries that were moved to a file (audit/archive.py). Append-only; their leaves and records stay in tiles and bundles.

    `events_until` is the time of the latest of their changes: what is older and unknown is a late repeat. `sha256` is the
    file's, `event_id` that of the event `audit.archived` (audit/archive_event.py), without which a row excuses nothing.
    """

    first_seq = models.BigIntegerField(primary_key=True)
    last_seq = models.BigIntegerField()
    file = models.TextField()
    sha256 = models.BinaryField()
    events_until = models.DateTimeField()
    event_id = models.UUIDField(null=True)
    archived_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_archive"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.first_seq}-{self.last_seq}: {self.file}"


class ArchivedSubject(models.Model):
    """The last archived version of a subject and its entry: what the next version, or the live row, follows upon.

    `deleted`: whether that is its deletion. `document` is the digest of what the entry says of `fields` (audit/last_states.py);
    null where it is a deletion, or was erased before.
    """

    pk = models.CompositePrimaryKey("subject_type", "subject_id")
    subject_type = models.TextField()
    subject_id = models.TextField()
    task_id = models.UUIDField(null=True)
    version = models.BigIntegerField()
    seq = models.BigIntegerField()
    # Null: archived before this was kept.
    deleted = models.BooleanField(null=True)
    document = models.BinaryField(null=True)
    fields = models.TextField(null=True)

    class Meta:
        db_table = "audit_archived_subject"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.subject_type}/{self.subject_id}: {self.version}"


class DeadLetter(models.Model):
    """A message that is no true event: whoever may produce to the topic must not be able to stop the audit."""

    class Reason(models.TextChoices):
        MALFORMED = "malformed", "malformed: no event of the contract"
        FOREIGN = "foreign", "foreign: an event of another source"
        ALTERED = "altered", "altered: its id is known, its bytes are not ours"
        FORGED = "forged", "forged: no change ever made this event"

    topic = models.TextField()
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    key = models.BinaryField(null=True)
    value = models.BinaryField(null=True)
    # [[name, value in hexadecimal or null], ...]
    headers = models.JSONField(default=list)
    value_digest = models.BinaryField()
    reason = models.TextField(choices=Reason)
    detail = models.TextField()
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_dead_letter"
        ordering = ["-id"]
        verbose_name = "dead letter"
        default_permissions = ("view", "delete")
        constraints = [
            # With the value's digest, since offsets start again when a broker loses its disk.
            models.UniqueConstraint(fields=["topic", "partition", "offset", "value_digest"], name="audit_dead_letter_once")
        ]

    def __str__(self) -> str:
        return f"{self.reason} at {self.topic}/{self.partition}/{self.offset}"
