"""The task list as a whole, as JSON Lines or CSV: PostgreSQL writes it, in one statement for each part that the ordering has, and
this hands it on as it comes.

Of JSON Lines each line is a task as the list shows it. CSV is that of RFC 4180 in UTF-8 with a header row; `assignee` and
`created_by` take a column for the id and one for the name, and labels are written as the parameter `label` takes them:
separated by commas, one that holds a comma or a quote in double quotes. So that no spreadsheet takes a text for a formula (OWASP,
"CSV Injection"), a text that begins with = + - @ or their full-width forms, a tab, a line break or an apostrophe has an
apostrophe put before it. A text of ours begins with one only then: who takes the first one away has what was written.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import time
from collections.abc import Iterator
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpResponse
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidQuery, Problem
from tasks.api import long_answers, members, queries, rows
from tasks.api.listing import Listing
from tasks.api.negotiation import preferred
from tasks.api.ordering import Ordering
from tasks.events import rfc3339_sql

_BLOCK_BYTES = 65_536
_FORMULA = r"'=', '+', '-', '@', E'\t', E'\r', E'\n', '''', '＝', '＋', '－', '＠'"


class Form(NamedTuple):
    content_type: str
    filename: str
    end_of_line: bytes


JSON_LINES = Form("application/x-ndjson", "tasks.jsonl", b"\n")
CSV = Form("text/csv; charset=utf-8; header=present", "tasks.csv", b"\r\n")
FORMS = {
    "text/csv": CSV,
    "application/x-ndjson": JSON_LINES,
    "application/jsonl": JSON_LINES._replace(content_type="application/jsonl"),
}


def asked_for(accept: str) -> Form | None:
    """None: JSON, in pages."""
    return FORMS.get(preferred(accept, ("application/json", *FORMS)))


def answer(request, asked: Listing, form: Form):
    """Raises InvalidQuery, or Problem where a client could not see that the answer was broken off."""
    if form is CSV and asked.members.expanded:
        detail = _("expand: a row of CSV has room for none; ask for JSON Lines.")
        raise InvalidQuery([{"parameter": "expand", "detail": detail}])
    if request.META.get("SERVER_PROTOCOL") == "HTTP/1.0":
        raise Problem(406, "A stream needs HTTP/1.1: in HTTP/1.0 one that was broken off looks like a whole one.")
    if request.method == "HEAD":
        return HttpResponse(content_type=form.content_type)
    return long_answers.answer(_blocks(asked, form), form.content_type, form.filename)


def statement(asked: Listing, form: Form, selected: str, limit: int, is_first: bool = True) -> str:
    """The COPY of one part of the list."""
    options = ""
    if form is CSV:
        shown, joins = _columns(asked.members), members.PEOPLE
        options = f" (FORMAT csv, HEADER {is_first})"
    else:
        shown, joins = "row_to_json(d)::text", members.document(asked.members)
    end = f"ORDER BY {rows.order(asked.ordering, asked.page)} LIMIT {limit}"
    return f"COPY ({rows.with_found(asked.filters)}SELECT {shown} FROM ({selected}) t {joins} {end}) TO STDOUT{options}"


def limit_and_order(cursor, asked: Listing, seconds: float) -> None:
    """Of the transaction: how long a part may take, and that nothing is sorted which an index gives in order. For an index that
    begins with another column than the ordering's PostgreSQL takes neighbours in it to be far apart in the table (it knows the
    correlation of the first column alone), and would rather sort a large table, on disk."""
    is_sorted = isinstance(asked.ordering, Ordering) and rows.in_order(asked.filters, asked.ordering)
    cursor.execute(
        "SELECT set_config('statement_timeout', %s, true), set_config('enable_sort', %s, true)",
        [str(max(1, round(seconds * 1000))), "off" if is_sorted else "on"],
    )


def _blocks(asked: Listing, form: Form) -> Iterator[bytes]:
    """Blocks of whole lines, as PostgreSQL sends them: it waits while the client does, as long as a request may take."""
    lines, size = [], 0
    for line in _lines(asked, form):
        lines.append(line[:-1])
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield _block(lines, form)
            lines, size = [], 0
    if lines:
        yield _block(lines, form)


def _lines(asked: Listing, form: Form) -> Iterator[bytes]:
    """Of one part after the other, in one snapshot: who streams alone in the transaction has one of its own."""
    parts, left = queries.parts(asked), asked.page.limit
    end = time.monotonic() + settings.WEB_REQUEST_SECONDS
    has_own = not connection.in_atomic_block
    with transaction.atomic(), connection.cursor() as cursor, connection.wrap_database_errors:
        if len(parts) > 1 and has_own:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for number, (selected, parameters) in enumerate(parts):
            limit_and_order(cursor, asked, end - time.monotonic())
            is_first = number == 0
            with cursor.cursor.copy(statement(asked, form, selected, left, is_first), parameters) as copy:
                yield from copy
            left -= cursor.cursor.rowcount
            if left <= 0:
                return


def _block(lines: list[bytes], form: Form) -> bytes:
    block = form.end_of_line.join([*lines, b""])
    # COPY's text form doubles backslashes and escapes control characters (PostgreSQL documentation, COPY); JSON has none of these.
    return block if form is CSV else block.replace(b"\\\\", b"\\")


def _text(sql: str) -> str:
    return f"CASE WHEN left({sql}, 1) IN ({_FORMULA}) THEN '''' || {sql} ELSE {sql} END"


_LABELS = r"""(SELECT string_agg(
  CASE WHEN label ~ '[",\r\n]|^\s|\s$' THEN '"' || replace(label, '"', '""') || '"' ELSE label END, ',' ORDER BY place)
  FROM unnest(t.labels) WITH ORDINALITY AS one (label, place))"""
_CSV = {
    "id": {"id": "t.id"},
    "title": {"title": _text("t.title")},
    "status": {"status": "t.status"},
    "priority": {"priority": "t.priority"},
    "category": {"category": _text("t.category")},
    "labels": {"labels": _text(_LABELS)},
    "assignee": {"assignee_id": "a.id", "assignee_name": _text("a.username")},
    "due_at": {"due_at": rfc3339_sql("t.due_at")},
    "parent": {"parent": "t.parent_id"},
    "description": {"description": _text("t.description")},
    "summary": {"summary": _text("t.summary")},
    "created_by": {"created_by_id": "c.id", "created_by_name": _text("c.username")},
    "created_at": {"created_at": rfc3339_sql("t.created_at")},
    "updated_at": {"updated_at": rfc3339_sql("t.updated_at")},
    "completed_at": {"completed_at": rfc3339_sql("t.completed_at")},
    "version": {"version": "t.version"},
}


def _columns(shown: members.Members) -> str:
    chosen = [columns for name, columns in _CSV.items() if not shown.fields or name in shown.fields]
    return ", ".join(f"{sql} AS {name}" for columns in chosen for name, sql in columns.items())
