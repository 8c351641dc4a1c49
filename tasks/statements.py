"""INSERT and UPDATE of one audited row, whose text is made once: composing it costs more than running it."""

# ruff: noqa: S608 (names of tables and columns are the models' own; values are parameters)

from functools import cache
from uuid import UUID

from django.db import connections, models
from django.db.models.sql.subqueries import UpdateQuery

# Types whose values these fields hand to the driver as they are: not asking them is half of what an INSERT's values cost.
_AS_THEY_ARE = {
    models.CharField: {str},
    models.TextField: {str},
    models.UUIDField: {UUID},
    models.ForeignKey: {int, UUID},
}


def insert(model, using: str, values: list[tuple], returning, then=None) -> tuple | None:
    """The fields of `returning` after the INSERT of (field, value)s. With `then` it is sent with what comes next, `then` is given
    the rows, and None is returned."""
    names = _names(field for field, _ in values)
    return _run(using, _insert_sql(model, using, names, _names(returning)), values, then=then)


def update(model, using: str, values: list[tuple], returning, key, version: int, then=None) -> tuple | None:
    """The same of an UPDATE of the row `key`; None, or no row, if it is not at `version`."""
    names = _names(field for field, _ in values)
    return _run(using, _update_sql(model, using, names, _names(returning)), values, key, version, then=then)


def change(model, using: str, key, values: list[tuple], shown: str) -> tuple | None:
    """All fields of the row `key` before and after its UPDATE, then what the SQL `shown` says of the row `new` (PostgreSQL 18
    documentation, UPDATE: RETURNING old and new); None if it is not there, or has these values already.

    Where a BEFORE trigger waited for another's change, PostgreSQL 18.4 gives as `old` what was there before that one: the versions
    are then not one after the other.
    """
    names = _names(field for field, _ in values)
    return _run(using, _change_sql(model, using, names, shown), [*values, *values], key)


def update_computed(query_set, using: str, changed, returning) -> tuple | None:
    """An UPDATE some of whose values PostgreSQL computes, of (field, None, value)s; None if no row was there."""
    query = query_set.query.chain(UpdateQuery)
    query.add_update_fields(changed)
    sql, parameters = query.get_compiler(using).as_sql()
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} RETURNING {_columns(returning, connection)}", parameters)
        return cursor.fetchone()


def _run(using: str, sql: str, values, *more, then=None) -> tuple | None:
    connection = connections[using]
    parameters = [*[_prepared(field, value, connection) for field, value in values], *more]
    if then is not None:
        connection.send_later(sql, parameters, then)
        return None
    rows = connection.fetch(sql, parameters)
    return rows[0] if rows else None


def _prepared(field, value, connection):
    if type(value) in _AS_THEY_ARE.get(type(field), ()):
        return value
    value = field.get_db_prep_save(value, connection)
    return _array(value) if type(value) is list and all(type(one) is str for one in value) else value


def _array(texts: list[str]) -> str:
    """The text form of an array (PostgreSQL documentation 8.15.6): psycopg takes five times as long to write it."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


# The statements are found by the names of columns: a field's own hash and equality are functions of Python.
def _names(fields) -> tuple[str, ...]:
    return tuple([field.attname for field in fields])


def _fields(model, names) -> list:
    return [model._meta.get_field(name) for name in names]


@cache
def _insert_sql(model, using: str, names: tuple[str, ...], returning: tuple[str, ...]) -> str:
    connection, fields = connections[using], _fields(model, names)
    values = ", ".join(_placeholder(field, connection) for field in fields)
    into = f"{_table(model, connection)} ({_columns(fields, connection)})"
    return f"INSERT INTO {into} VALUES ({values}) RETURNING {_columns(_fields(model, returning), connection)}"


@cache
def _update_sql(model, using: str, names: tuple[str, ...], returning: tuple[str, ...]) -> str:
    connection = connections[using]
    name = connection.ops.quote_name
    values = ", ".join(f"{name(field.column)} = {_placeholder(field, connection)}" for field in _fields(model, names))
    where = f"{name(model._meta.pk.column)} = %s AND {name('version')} = %s"
    returned = _columns(_fields(model, returning), connection)
    return f"UPDATE {_table(model, connection)} SET {values} WHERE {where} RETURNING {returned}"


@cache
def _change_sql(model, using: str, names: tuple[str, ...], shown: str) -> str:
    connection = connections[using]
    name = connection.ops.quote_name
    marked = [(name(field.column), _placeholder(field, connection)) for field in _fields(model, names)]
    sets = ", ".join(f"{column} = {mark}" for column, mark in marked)
    differs = " OR ".join(f"t.{column} IS DISTINCT FROM {mark}" for column, mark in marked)
    both = ", ".join(f"{row}.{name(field.column)}" for row in ("old", "new") for field in model._meta.concrete_fields)
    where = f"({differs}) AND t.{name(model._meta.pk.column)} = %s"
    return f"UPDATE {_table(model, connection)} t SET {sets} WHERE {where} RETURNING {both}, {shown}"


def _table(model, connection) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _columns(fields, connection) -> str:
    return ", ".join(connection.ops.quote_name(field.column) for field in fields)


def _placeholder(field, connection) -> str:
    """`%s`, with the cast that some fields ask for (an empty array has no type of its own)."""
    return field.get_placeholder(None, None, connection) if hasattr(field, "get_placeholder") else "%s"
