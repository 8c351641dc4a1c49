"""Many rows changed at once, each to values of its own."""

# ruff: noqa: S608 (names of tables and columns are the models' own; values are parameters)

import orjson
from django.db import connections

from tasks import context
from tasks.audited import AuditedModel, DatabaseDecided, StaleObjectError


def update_locked(pairs: list[tuple[AuditedModel, AuditedModel]], using: str = "default") -> None:
    """Writes each `(row, the row as it was read)` that differs, with its event: one UPDATE and one INSERT however many.

    The caller's transaction has locked the rows, of one model; their fields hold what JSON can say. A row that does not
    differ stays at its version. As with Django's bulk methods no signal is sent. Raises StaleObjectError, and then nothing
    must be committed, if a row is no longer at the version that was read.
    """
    changed = {row.pk: (row, before) for row, before in pairs if _differences(row, before)}
    if not changed:
        return
    model = type(pairs[0][0])
    fields = list(dict.fromkeys(field for pair in changed.values() for field in _differences(*pair)))
    decided = [f for f in model._meta.concrete_fields if isinstance(f, DatabaseDecided)]
    connection = connections[using]
    with connection.cursor() as cursor, context.captured():
        cursor.execute(_statement(model, fields, decided, connection), [_records(model, fields, changed.values())])
        written = cursor.fetchall()
    if len(written) < len(changed):
        raise StaleObjectError(f"a {model.subject_type} has changed since it was read")
    for key, *values in written:
        for field, value in zip(decided, values, strict=True):
            setattr(changed[key][0], field.attname, value)
    model.record([(row, before, "updated") for row, before in changed.values()], using)
    for row, _ in changed.values():
        row.remember()


def _differences(row, before) -> list:
    """The fields that a writer sets and that differ."""
    fields = (f for f in row._meta.concrete_fields if not (f.generated or isinstance(f, DatabaseDecided)))
    return [f for f in fields if getattr(row, f.attname) != getattr(before, f.attname)]


def _statement(model, fields, decided, connection) -> str:
    """PostgreSQL takes the rows as one JSON parameter and gives each column the table's own type."""
    name = connection.ops.quote_name
    table, key = name(model._meta.db_table), name(model._meta.pk.column)
    sets = ", ".join(f"{name(f.column)} = v.{name(f.column)}" for f in fields)
    returned = ", ".join(f"t.{name(f.column)}" for f in [model._meta.pk, *decided])
    return (
        f"UPDATE {table} t SET {sets} FROM json_populate_recordset(NULL::{table}, %s::json) v "
        f"WHERE t.{key} = v.{key} AND t.version = v.version RETURNING {returned}"
    )


def _records(model, fields, pairs) -> str:
    names = {f.column: f.attname for f in [model._meta.pk, model._meta.get_field("version"), *fields]}
    return orjson.dumps([{column: getattr(row, name) for column, name in names.items()} for row, _ in pairs]).decode()
