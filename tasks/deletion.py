"""Deletion of audited rows: cascades collected, one statement a model, the events written together."""

from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar

from django.db import connections, models
from django.db.models import signals
from django.db.models.deletion import Collector


class Tombstone(models.Model):
    """The last version and time of a deleted subject: a row of that id that is inserted again continues from there."""

    pk = models.CompositePrimaryKey("subject_type", "subject_id")
    subject_type = models.TextField()
    subject_id = models.TextField()
    version = models.BigIntegerField()
    deleted_at = models.DateTimeField()

    class Meta:
        db_table = "tasks_tombstone"

    def __str__(self) -> str:
        return f"{self.subject_type}/{self.subject_id} version {self.version}"


class OneStatementCollector(Collector):
    """Django deletes in statements of 100 rows; this one in one statement a model, signals and cascades as Django's.

    What also sets fields (SET_NULL and the like) is left to Django.
    """

    def delete(self):
        if self.field_updates:
            return super().delete()
        deleted = Counter()
        self.sort()
        for model, instance in self.instances_with_model():
            signals.pre_delete.send(sender=model, instance=instance, using=self.using, origin=self.origin)
        for rows in self.fast_deletes:
            deleted[rows.model._meta.label] += rows._raw_delete(self.using)
        for model, instances in self.data.items():
            removed = self._delete_rows(model, [instance.pk for instance in instances])
            deleted[model._meta.label] += len(removed)
            for instance in (instance for instance in instances if instance.pk in removed):
                signals.post_delete.send(sender=model, instance=instance, using=self.using, origin=self.origin)
        for model, instances in self.data.items():
            for instance in instances:
                setattr(instance, model._meta.pk.attname, None)
        deleted = +deleted
        return deleted.total(), dict(deleted)

    def _delete_rows(self, model, keys: list) -> set:
        """The keys of the rows that this statement removed: another transaction may have been first with some, and has
        written their events."""
        connection = connections[self.using]
        table, key = connection.ops.quote_name(model._meta.db_table), connection.ops.quote_name(model._meta.pk.column)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE {key} = ANY (%s) RETURNING {key}", [keys])  # noqa: S608 (the model's names)
            return {found for (found,) in cursor}


def delete(rows: list, using: str, origin, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
    """Deletes rows with all that cascades from them, in the caller's transaction; Django's counts."""
    collector = OneStatementCollector(using=using, origin=origin)
    collector.collect(rows, keep_parents=keep_parents)
    with _together(using):
        return collector.delete()


# The deletions of the delete() in hand, by database, or None outside one.
_deleting: ContextVar[list | None] = ContextVar("taskpulse_deleting", default=None)


@contextmanager
def _together(using: str):
    """Collects what one delete() removes, cascades included, and writes the events together."""
    if _deleting.get() is not None:
        yield
        return
    token = _deleting.set([])
    try:
        yield
        _record_deleted(_deleting.get(), using)
    finally:
        _deleting.reset(token)


def _record_deleted(rows: list, using: str) -> None:
    """An event for each row whose copy was the last version. A stale copy must not speak for the row: PostgreSQL,
    which saw the row as it last was, writes that event at the commit."""
    if not rows:
        return
    keys = [(row.subject_type, str(row.pk)) for row in rows]
    tombstones = {
        (stone.subject_type, stone.subject_id): stone
        for stone in Tombstone.objects.using(using).filter(
            subject_type__in={kind for kind, _ in keys}, subject_id__in=[key for _, key in keys]
        )
    }
    by_model: dict[type, list] = {}
    for row, key in zip(rows, keys, strict=True):
        stone = tombstones.get(key)
        if stone is not None and stone.version == row.version + 1 and not row.get_deferred_fields():
            row._deleted = (stone.deleted_at, stone.version)
            by_model.setdefault(type(row), []).append((row, None, "deleted"))
    for model, triples in by_model.items():
        model.record(triples, using)


def note(row, using: str) -> None:
    """Takes a deleted row; its event is written when the delete() in hand has all of its rows."""
    kept = row.__class__.__new__(row.__class__)
    kept.__dict__ = row.__dict__.copy()  # Django takes the key from the instance when its delete() is done
    rows = _deleting.get()
    if rows is None:
        _record_deleted([kept], using)
    else:
        rows.append(kept)
