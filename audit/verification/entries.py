"""One entry at a time: its payload against its digest, its columns against its payload, its leaf against both.

Everything is read as text and whole numbers, so that no value which Python's types cannot hold passes for a fault.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

from collections import Counter
from collections.abc import Iterator

from audit import leaf, redaction
from audit.merkle import leaf_hash
from audit.verification import accounts
from audit.verification.report import Finding
from tasks.events import rfc3339_sql

ROWS = 2_000


def _time(column: str) -> str:
    """RFC 3339 as in the leaf record. `to_char` writes no era: what lies before the year 1 must not pass for a year after."""
    return f"""CASE WHEN {column} < '0001-01-01 00:00+00' THEN {column}::text
  ELSE {rfc3339_sql(column)} END"""


# The first 14 are the leaf record's, in its order.
SELECT = f"""
SELECT seq, event_id::text, event_type, subject_type, subject_id, version, task_id::text, actor_id, {_time("occurred_at")},
  {_time("processed_at")}, topic, partition, "offset", encode(digest, 'hex'), leaf_hash, actor_name, actor_type, request_id,
  event_data::text
FROM task_audit_log WHERE seq BETWEEN %s AND %s"""
_LEAVES = "SELECT seq, leaf_hash FROM task_audit_log WHERE seq BETWEEN %s AND %s ORDER BY seq"
_COMMITTED = 14
SEQ, EVENT_ID, EVENT_TYPE, SUBJECT_TYPE, SUBJECT_ID, VERSION, TASK_ID, ACTOR_ID, OCCURRED_AT = range(9)
_DIGEST, LEAF, _ACTOR_NAME, _ACTOR_TYPE, _REQUEST_ID, EVENT_DATA = range(13, 19)


def read(connection, first: int, last: int) -> list[tuple]:
    """The rows from `first` to `last`, in order; as many as there are."""
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(f"{SELECT} ORDER BY seq", [first, last]).fetchall()


def read_leaves(connection, first: int, last: int) -> list[tuple[int, bytes]]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(_LEAVES, [first, last]).fetchall()


def record(origin: str, row: tuple) -> bytes:
    """The leaf record that a row's columns make. Raises ValueError where they make none."""
    return leaf.encode([leaf.NAME, origin, *row[:_COMMITTED]])


def check(connection, origin: str, rows: list[tuple], waiting: Counter[str]) -> Iterator[Finding]:
    """What is wrong with each row by itself; each is named once. For each erased one whose event is still on its way to the
    log, `waiting` counts one under that event's id."""
    erased = []
    for row in rows:
        wrong = _leaf_fault(origin, row)
        if wrong is None:
            document, digest = accounts.parsed(row[EVENT_DATA])
            if digest == row[_DIGEST]:
                wrong = _column_fault(row, document)
            elif redaction.accounted_by(document) is not None:
                erased.append((row, redaction.accounted_by(document)))
            else:
                wrong = "event_data is not what its digest says"
        if wrong is not None:
            yield Finding("entries", wrong, row[SEQ])
    if erased:
        yield from _check_erased(connection, erased, waiting)


def _leaf_fault(origin: str, row: tuple) -> str | None:
    try:
        raw = record(origin, row)
    except ValueError as error:
        return f"its columns make no leaf record ({error})"
    if leaf_hash(raw) != row[LEAF]:
        return "its columns are not what its leaf hash says"
    return None


def _column_fault(row: tuple, event: object) -> str | None:
    """A column that says something else than the event; None if all agree."""
    if not isinstance(event, dict):
        return "event_data is no event"
    get = event.get
    version = row[VERSION]
    if (
        get("id") == row[EVENT_ID]
        and get("type") == row[EVENT_TYPE]
        and get("subject") == f"{row[SUBJECT_TYPE]}/{row[SUBJECT_ID]}"
        and get("sequence") == (None if version is None else f"{version:020d}")
        and get("taskid") == row[TASK_ID]
        and get("actorid") == row[ACTOR_ID]
        and get("time") == row[OCCURRED_AT]
        and get("actorname") == row[_ACTOR_NAME]
        and get("actortype") == row[_ACTOR_TYPE]
        and get("requestid") == row[_REQUEST_ID]
    ):
        return None
    said = {
        "event_id": ("id", row[EVENT_ID]), "event_type": ("type", row[EVENT_TYPE]), "task_id": ("taskid", row[TASK_ID]),
        "subject": ("subject", f"{row[SUBJECT_TYPE]}/{row[SUBJECT_ID]}"), "actor_id": ("actorid", row[ACTOR_ID]),
        "version": ("sequence", None if version is None else f"{version:020d}"), "occurred_at": ("time", row[OCCURRED_AT]),
        "actor_name": ("actorname", row[_ACTOR_NAME]), "actor_type": ("actortype", row[_ACTOR_TYPE]),
        "request_id": ("requestid", row[_REQUEST_ID]),
    }  # fmt: skip
    names = [column for column, (attribute, value) in said.items() if get(attribute) != value]
    return f"the columns {', '.join(names)} are not what event_data says"


def _check_erased(connection, erased: list[tuple[tuple, str]], waiting: Counter[str]) -> Iterator[Finding]:
    events = accounts.find(connection, {event_id for _, event_id in erased})
    for row, event_id in erased:
        account = events.get(event_id)
        if account is None or not account.after(row[SEQ]) or not redaction.names(account.event, row[SEQ]):
            yield Finding("entries", f"it is marked as erased, and no event {event_id} of type audit.redacted names it", row[SEQ])
        elif not account.counts:
            yield Finding("entries", f"it is marked as erased, and its event {event_id} {accounts.TOO_LONG}", row[SEQ])
        elif any(row[column] is not None for column in (_ACTOR_NAME, _ACTOR_TYPE, _REQUEST_ID)):
            yield Finding("entries", f"it is erased, and one of {', '.join(redaction.CLEARED)} is not empty", row[SEQ])
        elif account.waits:
            waiting[event_id] += 1
