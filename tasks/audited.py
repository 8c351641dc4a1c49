"""Audited models: each row is a subject whose every change becomes an event in the same transaction.

An audited model subclasses `AuditedModel`, names its `subject_type` and its `documents`, and has in its migration the
line `SELECT taskpulse_audit(table, subject type, document function, column of the task's id)`. `save` and `delete` are
captured by signals (`tasks/capture.py`), the bulk methods in `tasks/audited_rows.py`, and whatever passes by both (raw SQL, COPY,
`ignore_conflicts`) by a deferred constraint trigger, which writes the event of each row version that reached the
commit without one.
"""

from functools import cache
from typing import NamedTuple

from django.db import connections, models, transaction
from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init

from tasks import context, deletion, events, foretold, outbox, statements
from tasks.audited_rows import AuditedManager


class StaleObjectError(Exception):
    """The row changed or went since this copy was read; nothing was written."""


class DatabaseDecided:
    """A field whose value a trigger decides; an INSERT reads it back."""

    @property
    def db_returning(self) -> bool:
        return True


class VersionField(DatabaseDecided, models.BigIntegerField):
    pass


class DecidedDateTimeField(DatabaseDecided, models.DateTimeField):
    pass


class _Inserted(NamedTuple):
    """What an INSERT has to know of a field."""

    field: models.Field
    attname: str
    # Whether its value is the instance's as it is; it is asked what to save otherwise.
    is_plain: bool
    # Whether an INSERT need not name it without a value: it is null by itself, or a trigger decides it.
    may_be_left_out: bool


@cache
def _made(model) -> tuple[dict, dict]:
    """Of the fields of a new instance, by column attribute: the values, and what makes one for each instance."""
    defaults = {f.attname: f.default if f.has_default() else f.get_default() for f in model._meta.concrete_fields}
    made = {name: default for name, default in defaults.items() if callable(default)}
    return {name: default for name, default in defaults.items() if name not in made}, made


@cache
def _inserted(model) -> tuple[list[_Inserted], list]:
    """The fields that an INSERT has values for, which a trigger does not decide in any case; and those that it reads back."""
    fields = [f for f in model._meta.concrete_fields if not f.generated and not isinstance(f, VersionField)]
    plans = [_Inserted(f, f.attname, _is_saved_as_it_is(f), f.null or isinstance(f, DatabaseDecided)) for f in fields]
    return plans, list(model._meta.db_returning_fields)


def _is_saved_as_it_is(field) -> bool:
    if type(field).pre_save is models.DateTimeField.pre_save:
        return not (field.auto_now or field.auto_now_add)
    return type(field).pre_save is models.Field.pre_save


@cache
def _decided(model) -> frozenset[str]:
    return frozenset(f.attname for f in model._meta.concrete_fields if isinstance(f, DatabaseDecided))


class AuditedModel(models.Model):
    """A model each of whose rows is a subject with a gapless version, decided by the database."""

    subject_type: str
    # The document that the last event of this instance carries.
    recorded: dict | None = None
    # Fields that change with every version, so that `changes` need not name them.
    derived = frozenset({"id", "version", "updated_at"})

    version = VersionField(editable=False, default=1)
    updated_at = DecidedDateTimeField(editable=False, null=False)

    objects = AuditedManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"

    @classmethod
    def documents(cls, rows) -> list[dict]:
        """The canonical documents of `rows`, in a constant number of statements."""
        raise NotImplementedError

    @property
    def task_key(self):
        """The id of the task that this subject belongs to, or None."""
        return None

    @classmethod
    def from_db(cls, db, field_names, values):
        """As Django's. `__init__` costs as much as the rest of reading a row, and nothing but its signals needs it."""
        loaded = dict(zip(field_names, values, strict=False))
        if pre_init.has_listeners(cls) or post_init.has_listeners(cls):
            instance = super().from_db(db, field_names, values)
        else:
            instance = cls.of_values(loaded)
            instance._state.adding, instance._state.db = False, db
        instance._loaded = loaded
        return instance

    @classmethod
    def of_values(cls, values: dict):
        """An instance with these values by column attribute; the others are deferred."""
        instance = cls.__new__(cls)
        instance._state = ModelState()
        instance.__dict__.update(values)
        return instance

    @classmethod
    def fresh(cls, **values):
        """A new instance with these values by column attribute, the others at their defaults, for half of what `__init__` costs."""
        if pre_init.has_listeners(cls) or post_init.has_listeners(cls):
            return cls(**values)
        defaults, made = _made(cls)
        return cls.of_values(defaults | {name: make() for name, make in made.items()} | values)

    def take_decided(self, values: dict) -> None:
        """Takes what the database decided, by column attribute, after the row was written."""
        self.__dict__.update(values)
        self._loaded = self.__dict__.get("_loaded", {}) | values

    def remember(self) -> None:
        """Takes the present values for those in the database."""
        self._loaded = {f.attname: self.__dict__[f.attname] for f in self._meta.concrete_fields if f.attname in self.__dict__}

    def refresh_from_db(self, using=None, fields=None, from_queryset=None):
        super().refresh_from_db(using=using, fields=fields, from_queryset=from_queryset)
        if fields is None:
            self.remember()
        else:
            names = [self._meta.get_field(name).attname for name in fields if name in self._field_names()]
            self._loaded |= {name: self.__dict__[name] for name in names}

    @classmethod
    def _field_names(cls) -> set[str]:
        return {name for f in cls._meta.concrete_fields for name in (f.name, f.attname)}

    def save_base(self, *args, **kwargs):
        """Django sends `post_save` after its own transaction: one more around it keeps change and event together."""
        using = kwargs.get("using") or "default"
        is_open = connections[using].in_atomic_block
        with transaction.mark_for_rollback_on_error(using) if is_open else transaction.atomic(using, savepoint=False):
            super().save_base(*args, **kwargs)

    def delete(self, using=None, keep_parents=False):
        using = using or self._state.db or "default"
        with transaction.atomic(using=using, savepoint=False):
            return deletion.delete([self], using, origin=self, keep_parents=keep_parents)

    def _save_table(self, raw=False, cls=None, force_insert=False, force_update=False, using=None, update_fields=None):
        """As Django's; where an INSERT is asked for, nothing is left of its questions but which fields there are."""
        if force_insert and not raw and self.pk is not None:
            plans, returning = _inserted(type(self))
            values = self._insert(using, plans, returning)
            if values is not None:
                for field, value in zip(returning, values, strict=True):
                    setattr(self, field.attname, value)
                return False
        return super()._save_table(raw, cls, force_insert, force_update, using, update_fields)

    def _do_insert(self, manager, using, fields, returning_fields, raw):
        """Django's way to it, from where an INSERT is not asked for."""
        inserted = {f.attname for f in fields}
        plans = [plan for plan in _inserted(type(self))[0] if plan.attname in inserted]
        values = self._insert(using, plans, returning_fields, raw)
        if values is not None:
            return [values]
        with context.captured():
            return super()._do_insert(manager, using, fields, returning_fields, raw)

    def _insert(self, using, plans, returning, raw=False) -> tuple | None:
        """Django's INSERT with its text made once, since composing it costs more than running it, and without the columns
        that may be null and are. The values of `returning`; None, and nothing is done, where PostgreSQL is to compute a value."""
        given = []
        for field, attname, is_plain, may_be_left_out in plans:
            value = getattr(self, attname) if is_plain or raw else field.pre_save(self, add=True)
            if value is None and may_be_left_out:
                continue
            if hasattr(value, "resolve_expression"):
                return None
            given.append((field, value))
        told, then = foretold.of(self, None, returning, using)
        with context.captured():
            return statements.insert(type(self), using, given, returning, then) or told

    def _do_update(self, base_qs, using, pk_val, values, update_fields, forced_update):
        """Writes the columns that changed, if the row is still at the version that was read, and reads back what
        the triggers decided. A copy that changes nothing writes nothing. Raises StaleObjectError."""
        loaded = getattr(self, "_loaded", None)
        if loaded is None:
            # An instance that was never read: an import, or `save()` with a key typed by hand.
            current = base_qs.filter(pk=pk_val).select_for_update().first()
            if current is None:
                return False
            loaded = current._loaded
        for name in self.get_deferred_fields():
            self.refresh_from_db(using=using, fields=[name])
        decided = _decided(type(self))
        changed = [
            (field, None, value)
            for field, model, value in values
            if field.attname not in decided
            and (hasattr(value, "resolve_expression") or field.attname not in loaded or loaded[field.attname] != value)
        ]
        self._before = loaded
        if changed:
            self._update_returning(base_qs, using, loaded, changed, decided)
        else:
            for name in decided:
                setattr(self, name, loaded[name])
        return True

    def _update_returning(self, query_set, using, loaded, changed, decided) -> None:
        values = [(field, value) for field, _, value in changed]
        computed = {field.attname for field, value in values if hasattr(value, "resolve_expression")}
        read_back = [f for f in self._meta.concrete_fields if f.attname in decided | computed]
        with context.captured():
            if computed:
                found = query_set.filter(pk=self.pk, version=loaded["version"])
                row = statements.update_computed(found, using, changed, read_back)
            else:
                told, then = foretold.of(self, loaded, read_back, using)
                row = statements.update(type(self), using, values, read_back, self.pk, loaded["version"], then) or told
        if row is None:
            raise StaleObjectError(f"{self.subject_type} {self.pk} has changed since version {self.version} was read")
        for field, value in zip(read_back, row, strict=True):
            setattr(self, field.attname, value)

    def foretell(self, before: dict | None) -> dict | None:
        """What triggers will decide of this row, by column attribute, if it is still as it was `before` (None: if it is new); None
        where that is not known."""
        return None

    @classmethod
    def record(cls, triples, using: str) -> None:
        """Appends the events of `(row, row before or None, action)`; a constant number of statements. What an event says of
        a row is then its `recorded`."""
        if not triples:
            return
        before = [old for _, old, _ in triples if old is not None]
        documents = cls.documents([row for row, _, _ in triples] + before)
        old_documents = iter(documents[len(triples) :])
        changes = []
        for (row, old, action), document in zip(triples, documents, strict=False):
            row.recorded = document
            moment, version, changed = row.updated_at, row.version, {}
            if action == "deleted":
                moment, version = row._deleted
            else:
                changed = events.changes(next(old_documents) if old is not None else None, document, cls.derived)
            changes.append(outbox.Change(cls.subject_type, str(row.pk), action, version, moment, row.task_key, document, changed))
        outbox.append(changes, using)
