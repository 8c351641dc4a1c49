"""The statements of labels; PostgreSQL writes the JSON of what is read, as in `tasks.api.queries`."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

from django.db import connection

from tasks.api.members import tag, unless_known
from tasks.api.pagination import Page, Slice, cut
from tasks.api.validation import task_id
from tasks.events import rfc3339_sql
from tasks.labels import LABEL_LENGTH
from tasks.models import Label


class NameKeys:
    """Cursors hold the name itself: a page goes on where it was although its last label is gone."""

    def write(self, key: str) -> bytes:
        return key.encode()

    def read(self, raw: bytes) -> str | None:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            return None
        return name if 1 <= len(name) <= LABEL_LENGTH and "\x00" not in name else None


KEYS = NameKeys()
DOCUMENT = f"SELECT l.colour, l.description, l.id, l.name, {rfc3339_sql('l.updated_at')} AS updated_at, l.version"


def page(at: Page) -> Slice:
    """By name; one statement."""
    order, beyond = ("DESC", "<") if at.backward else ("ASC", ">")
    after = "" if at.key is None else f"WHERE l.name {beyond} %s"
    sql = f"""SELECT l.name, row_to_json(d)::text FROM tasks_label l CROSS JOIN LATERAL ({DOCUMENT}) d
{after} ORDER BY l.name {order} LIMIT {at.limit + 1}"""
    with connection.cursor() as cursor:
        cursor.execute(sql, [] if at.key is None else [at.key])
        return cut(cursor.fetchall(), at)


def _named(written: str) -> tuple[str, list]:
    """A label's id if it is one, else its name. A label whose name is an id in its usual form is reached by its own id."""
    key = task_id(written)
    return ("l.name = %s", [written]) if key is None else ("l.id = %s", [key])


_TAG = tag("l")
_ONE = f"SELECT {_TAG}, {unless_known(_TAG, f'(SELECT row_to_json(d)::text FROM ({DOCUMENT}) d)')} FROM tasks_label l"


def read(written: str, known: list[str] | None = None) -> tuple[str, str | None] | None:
    """Entity tag and JSON, as `queries.read` has them, of the label of this name or id; one statement."""
    condition, parameters = _named(written)
    with connection.cursor() as cursor:
        cursor.execute(f"{_ONE} WHERE {condition}", [known or [], *parameters])
        return cursor.fetchone()


def lock(written: str) -> Label | None:
    """The label of this name or id, its row locked until the transaction ends; one statement."""
    key = task_id(written)
    named = {"name": written} if key is None else {"pk": key}
    return Label.objects.select_for_update().filter(**named).first()
