"""One configuration of logging for all roles: JSON lines for machines, readable lines for people (TASKPULSE_LOG_FORMAT).

A call may give its fields as a mapping, the only argument: `logger.info("%(recorded)d events", {"recorded": 3, "seq": 7})`.
JSON has each as a key, text shows after the message what it does not show itself. Every line that is written while a
request is answered bears the request's id and trace.

What is never logged: payloads, titles, tokens, passwords. PostgreSQL's messages quote values, so that of an exception of
its own only class, SQLSTATE and names are told (`describe`).
"""

import functools
import json
import logging
import re
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import orjson
import psycopg

from tasks import context

# What no line of ours shows is not gathered for each (Python's logging HOWTO, "Optimization"): 3 µs a line.
logging._srcfile = None
logging.logThreads = logging.logMultiprocessing = logging.logAsyncioTasks = False

# Request ids in one line: it stays below 16 KiB, where container engines cut lines.
_IDS_A_LINE = 100
# SQLSTATE classes whose messages speak of server or session, not of values (PostgreSQL documentation, appendix A).
_OF_THE_SERVER = ("08", "40", "53", "55", "57", "58")


def configuration(form: str, level: str) -> dict:
    """For `logging.config.dictConfig`: everything to standard error, gunicorn's own lines too. `level` is that of our
    loggers; others never go below INFO, since theirs may show statements with their values."""
    others = max(logging.INFO, getattr(logging, level))
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter if form == "json" else TextFormatter}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"level": others, "handlers": ["console"]},
        "loggers": {
            "taskpulse": {"level": level},
            "django": {"level": others, "handlers": []},
            # The line of each request says what is below a 500.
            "django.request": {"level": "ERROR"},
            "django.server": {"level": "WARNING", "handlers": []},
            # Whoever scans the net names foreign hosts: a 400, and no stack for each.
            "django.security.DisallowedHost": {"level": "CRITICAL"},
            # taskpulse/span_export.py says once that a collector is away; this would say it with every try.
            "opentelemetry": {"level": "CRITICAL"},
            "gunicorn.error": {"level": others, "handlers": [], "propagate": True},
        },
    }


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict:
        """The call's own fields and those of the request that this thread answers; absent ones are left out."""
        given = record.args if isinstance(record.args, Mapping) else {}
        fields = {name: value for name, value in given.items() if value is not None}
        current = context.current()
        if current.request_id:
            fields.setdefault("request_id", current.request_id)
        if current.traceparent:
            fields.setdefault("trace_id", current.traceparent[3:35])
        return fields


class JsonFormatter(_Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `pid`, `message`, the fields, and of an exception
    `exception` and `stack`."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            document |= {"exception": describe(record.exc_info[1]), "stack": stack(record.exc_info[1])}
        try:
            return orjson.dumps(document, default=str).decode()
        except TypeError:  # text that is not UTF-8
            return json.dumps(document, default=str)


class TextFormatter(_Formatter):
    """`14:03:11.123 INFO logger: message name=value …`, below it the stack of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).isoformat(" ", timespec="milliseconds")
        text = f"{moment} {record.levelname:<7} {record.name.removeprefix('taskpulse.')}: {record.getMessage()}"
        shown = _shown(str(record.msg))
        for name, value in self.fields(record).items():
            if name not in shown:
                text += f" {name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        text = one_line(text)
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + stack(record.exc_info[1])
        return text


@functools.lru_cache(256)
def _shown(message: str) -> frozenset[str]:
    """The fields that a message shows itself."""
    return frozenset(re.findall(r"%\((\w+)\)", message))


def one_line(text: str) -> str:
    """Control characters become escapes: nobody writes lines of his own into the log."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe(error: BaseException) -> str:
    """One line on an exception that is fit for a log."""
    name = type(error).__qualname__
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    if not isinstance(cause, psycopg.Error) or cause.sqlstate is None:
        return one_line(f"{name}: {error}"[:1000])
    diag = cause.diag
    if cause.sqlstate.startswith(_OF_THE_SERVER):
        return one_line(f"{name}: SQLSTATE {cause.sqlstate}, {diag.message_primary}")
    named = {"table": diag.table_name, "column": diag.column_name, "constraint": diag.constraint_name}
    return ", ".join([f"{name}: SQLSTATE {cause.sqlstate}", *(f"{what} {value}" for what, value in named.items() if value)])


def stack(error: BaseException) -> str:
    """The stack of an exception and of what led to it, the first cause first; messages as `describe` tells them."""
    parts, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{describe(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich led to\n\n".join(reversed(parts))


def batch(
    logger: logging.Logger, message: str, fields: dict, request_ids: Iterable[str | None], count: int, events: Iterable[tuple]
) -> None:
    """The line of a batch, with the ids of the requests that caused it, so that `grep` finds a request's way; of a small one
    with those of its events and tasks too, as a request's line has them, since a change by raw SQL has no request. `events`:
    (event id, task id or None) of each of the `count`, looked at only then.

    Each id stands in exactly one line. There are 100 in a line: what does not fit follows in further lines with the same
    fields, so that a catch-up of 20,000 events a second writes 200 lines and not 20,000.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    ids = [name[:128] for name in dict.fromkeys(request_ids) if name]
    if count <= context.NOTED:
        fields = fields | _named(events)
    logger.info(message, fields | {"request_ids": ids[:_IDS_A_LINE] or None})
    for start in range(_IDS_A_LINE, len(ids), _IDS_A_LINE):
        logger.info(
            "%(more)d more requests of that batch",
            fields | {"more": len(ids) - start, "request_ids": ids[start : start + _IDS_A_LINE]},
        )


def _named(events: Iterable[tuple]) -> dict[str, list[str] | None]:
    pairs = list(events)
    tasks = dict.fromkeys(str(task) for _, task in pairs if task is not None)
    return {"event_ids": [str(event) for event, _ in pairs] or None, "task_ids": list(tasks) or None}
