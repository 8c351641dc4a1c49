"""Many rows of an audited model at once: an event for each, in a constant number of statements."""

from django.db import models, transaction

from tasks import context, deletion

# PostgreSQL takes this many parameters a statement at most.
_PARAMETERS = 65_535
_ROWS_A_STATEMENT = 5_000


class AuditedQuerySet(models.QuerySet):
    def update(self, **values) -> int:
        """As Django's, with an event for each row that changed: a lock, and for each 5,000 rows the update, a read of
        what the triggers made of it and the events.

        Rows are locked in the order of their keys, so that two bulk updates cannot deadlock.
        """
        if self.query.is_sliced:
            raise TypeError("Cannot update a query once a slice has been taken.")
        if not values:
            return 0
        with transaction.atomic(using=self.db, savepoint=False):
            rows = self.model._base_manager.using(self.db)
            keys = models.Subquery(self.order_by().values("pk")) if self.query.combinator is None else list(self.values_list("pk"))
            before = {row.pk: row for row in rows.filter(pk__in=keys).order_by("pk").select_for_update()}
            if not before:
                return 0
            for start in range(0, len(before), _ROWS_A_STATEMENT):
                keys = list(before)[start : start + _ROWS_A_STATEMENT]
                locked = rows.filter(pk__in=keys).order_by("pk")
                with context.captured():
                    super(AuditedQuerySet, locked.order_by()).update(**values)
                changed = [(row, before[row.pk], "updated") for row in locked if row.version != before[row.pk].version]
                self.model.record(changed, self.db)
        self._result_cache = None
        return len(before)

    update.alters_data = True

    def bulk_create(self, objs, batch_size=None, ignore_conflicts=False, update_conflicts=False, **options):
        """As Django's, with an event for each row. With a conflict option only PostgreSQL knows which rows came to be:
        its trigger writes their events at the commit."""
        objs = list(objs)
        most = _PARAMETERS // len(self.model._meta.concrete_fields)
        batch_size = min(batch_size or most, most)
        by_database = ignore_conflicts or update_conflicts
        with transaction.atomic(using=self.db, savepoint=False):
            if by_database:
                return super().bulk_create(objs, batch_size, ignore_conflicts, update_conflicts, **options)
            with context.captured():
                created = super().bulk_create(objs, batch_size, **options)
            for row in created:
                row.remember()
            self.model.record([(row, None, "created") for row in created], self.db)
        return created

    bulk_create.alters_data = True

    def delete(self):
        """As Django's, but one statement a model however many rows, which are locked in the order of their keys."""
        self._not_support_combined_queries("delete")
        if self.query.is_sliced or self.query.distinct_fields or self._fields is not None:
            return super().delete()  # raises Django's own TypeError
        with transaction.atomic(using=self.db, savepoint=False):
            keys = models.Subquery(self.order_by().values("pk"))
            rows = list(self.model._base_manager.using(self.db).filter(pk__in=keys).order_by("pk").select_for_update())
            self._result_cache = None
            return deletion.delete(rows, self.db, origin=self)

    delete.alters_data = True
    delete.queryset_only = True

    def _raw_delete(self, using):
        """Django's shortcut for rows that nothing else refers to: the trigger writes the events."""
        with transaction.atomic(using=using, savepoint=False):
            return super()._raw_delete(using)


class AuditedManager(models.Manager.from_queryset(AuditedQuerySet)):
    pass
