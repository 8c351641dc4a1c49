"""The task list as a whole, as JSON Lines or CSV: PostgreSQL writes it in one statement, and this hands it on as it comes.

Of JSON Lines each line is a task as the list shows it. CSV is that of RFC 4180 in UTF-8 with a header row; `assignee` and
`created_by` take a column for the id and one for the name, and labels are written as the parameter `label` takes them:
separated by commas, one that holds a comma or a quote in double quotes. So that no spreadsheet takes a text for a formula (OWASP,
"CSV Injection"), a text that begins with = + - @ or their full-width forms, a tab, a line break or an apostrophe has an
apostrophe put before it. A text of ours begins with one only then: who takes the first one away has what was written.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

from collections.abc import Iterator
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpResponse

from taskpulse.errors import InvalidQuery, Problem
from tasks.api import long_answers, members, queries, rows
from tasks.api.listing import Listing
from tasks.api.negotiation import preferred

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
        raise InvalidQuery([{"parameter": "expand", "detail": "expand: a row of CSV has room for none; ask for JSON Lines."}])
    if request.META.get("SERVER_PROTOCOL") == "HTTP/1.0":
        raise Problem(406, "A stream needs HTTP/1.1: in HTTP/1.0 one that was broken off looks like a whole one.")
    if request.method == "HEAD":
        return HttpResponse(content_type=form.content_type)
    return long_answers.answer(_blocks(asked, form), form.content_type, form.filename)


def statement(asked: Listing, form: Form) -> tuple[str, list]:
    """A COPY, with its parameters."""
    at, ordering = asked.page, asked.ordering
    selected, parameters = queries.select(asked)
    if form is CSV:
        shown, joins = _columns(asked.members), members.PEOPLE
        options = " (FORMAT csv, HEADER)"
    else:
        shown, joins, options = "row_to_json(d)::text", members.document(asked.members), ""
    end = f"ORDER BY {rows.order(ordering, at)} LIMIT {at.limit}"
    return f"COPY ({rows.with_found(asked.filters)}SELECT {shown} FROM ({selected}) t {joins} {end}) TO STDOUT{options}", parameters


def _blocks(asked: Listing, form: Form) -> Iterator[bytes]:
    """Blocks of whole lines, as PostgreSQL sends them: it waits while the client does, as long as a request may take."""
    sql, parameters = statement(asked, form)
    with transaction.atomic(), connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(settings.WEB_REQUEST_SECONDS * 1000)])
        with cursor.cursor.copy(sql, parameters) as copy:
            lines, size = [], 0
            for line in copy:
                lines.append(line[:-1])
                size += len(line)
                if size >= _BLOCK_BYTES:
                    yield _block(lines, form)
                    lines, size = [], 0
    if lines:
        yield _block(lines, form)


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
    "due_at": {"due_at": members.utc("t.due_at")},
    "parent": {"parent": "t.parent_id"},
    "description": {"description": _text("t.description")},
    "summary": {"summary": _text("t.summary")},
    "created_by": {"created_by_id": "c.id", "created_by_name": _text("c.username")},
    "created_at": {"created_at": members.utc("t.created_at")},
    "updated_at": {"updated_at": members.utc("t.updated_at")},
    "completed_at": {"completed_at": members.utc("t.completed_at")},
    "version": {"version": "t.version"},
}


def _columns(shown: members.Members) -> str:
    chosen = [columns for name, columns in _CSV.items() if not shown.fields or name in shown.fields]
    return ", ".join(f"{sql} AS {name}" for columns in chosen for name, sql in columns.items())
