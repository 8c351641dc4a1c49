"""A change as people read it: who, when, why, and each field before and after. Bounded, whatever an event holds."""

import difflib
import re
from dataclasses import dataclass, field
from datetime import datetime

import orjson
from django.db.models.fields.json import KeyTextTransform, KeyTransform

from audit import redaction
from audit.models import Entry
from tasks.models import OutboxEvent

LINE = 300  # characters shown of a value or a line
LINES = 40  # lines shown of one difference
_DIFFED_LINES = 400  # beyond, a line-by-line comparison costs more than it tells
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{6}Z")
_NOBODY = "—"
# What a creation need not repeat: the entry itself says it.
_OBVIOUS = {"created_at", "created_by", "author", "task"}


@dataclass(slots=True)
class Difference:
    """One field. `lines` of a text are (sign, line) with sign `+`, `-`, blank or `…`; `added`, `removed` are labels."""

    name: str
    before: str | None = None
    after: str | None = None
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Change:
    """One event. `seq` is None while it is not in the log; `held` when the log could not take it. `erased_by` is the event
    that accounts for it, if its payload was erased."""

    event_id: object
    subject_type: str
    action: str
    version: int | None
    at: datetime
    actor: str
    actor_type: str
    reason: str | None
    request_id: str | None
    seq: int | None
    held: bool
    differences: list[Difference]
    erased_by: str | None = None


def shown(value) -> str:
    """A value in one line."""
    if value is None or value == "" or value == []:
        return _NOBODY
    if isinstance(value, dict):
        value = value.get("name") or value.get("id") or orjson.dumps(value).decode()
    elif isinstance(value, list):
        value = ", ".join(str(item) for item in value)
    text = _TIME.sub(r"\1 \2 UTC", str(value))
    return text if len(text) <= LINE else f"{text[:LINE]}… ({len(text):,} characters)"


def label(name: str) -> str:
    """A field's name as people say it."""
    return name.replace("_", " ")


def shown_of(name: str, value) -> str:
    """`shown` for the field `name`."""
    return shown(label(value) if name == "status" and isinstance(value, str) else value)


def differences(changes: dict, action: str) -> list[Difference]:
    return [
        _difference(name, pair.get("from"), pair.get("to"), action == "created")
        for name, pair in sorted((changes if isinstance(changes, dict) else {}).items(), key=_order)
        if isinstance(pair, dict) and not (action == "created" and (name in _OBVIOUS or pair.get("to") in (None, "", [])))
    ]


_FIRST = ["title", "status", "priority", "assignee", "labels", "due_at", "description", "body", "user"]


def _order(item: tuple) -> tuple:
    name = item[0]
    return (_FIRST.index(name), "") if name in _FIRST else (len(_FIRST), name)


def _difference(name: str, before, after, created: bool) -> Difference:
    shown_name = label(name)
    if isinstance(before, list) or isinstance(after, list):
        old, new = before or [], after or []
        added, removed = [x for x in new if x not in old], [x for x in old if x not in new]
        return Difference(shown_name, added=added[:LINES], removed=removed[:LINES])
    if isinstance(before, str) and isinstance(after, str) and ("\n" in before + after or len(before) + len(after) > LINE):
        return Difference(shown_name, lines=_lines(before, after))
    if created:
        return Difference(shown_name, after=shown(after))
    return Difference(shown_name, before=shown_of(name, before), after=shown_of(name, after))


def _lines(before: str, after: str) -> list[tuple[str, str]]:
    old, new = before.splitlines(), after.splitlines()
    if len(old) + len(new) > 2 * _DIFFED_LINES:
        return [("-", shown(before)), ("+", shown(after))]
    lines = []
    for line in list(difflib.unified_diff(old, new, n=1, lineterm=""))[2:]:
        if line.startswith("@@"):
            if lines:
                lines.append(("…", ""))
        else:
            lines.append((line[0], line[1 : LINE + 1]))
    if not lines:
        return [("…", "only line ends differ")]
    return lines[:LINES] + ([("…", f"{len(lines) - LINES} more lines")] if len(lines) > LINES else [])


def entries(task_id, limit: int, before_seq: int | None = None) -> list[Change]:
    """The newest recorded changes of a task and of what belongs to it, by keyset."""
    rows = Entry.objects.filter(task_id=task_id).order_by("-seq").annotate(
        changed=KeyTransform("changes", KeyTransform("data", "event_data")), why=KeyTextTransform("reason", "event_data"),
        erased=KeyTextTransform(redaction.MARKER, "event_data"),
    )  # fmt: skip
    if before_seq is not None:
        rows = rows.filter(seq__lt=before_seq)
    return [_of_entry(row, row.changed, row.why, row.erased) for row in rows.defer("event_data")[:limit]]


def _of_entry(entry: Entry, changed, reason, erased_by) -> Change:
    action = entry.event_type.rpartition(".")[2]
    return Change(
        entry.event_id, entry.subject_type, action, entry.version, entry.occurred_at,
        entry.actor_name or entry.actor_id or "unknown", entry.actor_type or "", reason, entry.request_id, entry.seq, False,
        differences(changed, action), erased_by,
    )  # fmt: skip


def of_entry(entry: Entry) -> Change:
    return _of_entry(entry, entry.changes, entry.reason, redaction.accounted_by(entry.event_data))


def pending(task_id, limit: int) -> list[Change]:
    """The newest changes of a task, and of what belongs to it, that are committed and not in the log yet."""
    rows = OutboxEvent.objects.filter(task_id=task_id).order_by("-id").values_list("payload", "version", "held_at")
    return [_of_payload(orjson.loads(payload), version, held_at is not None) for payload, version, held_at in rows[:limit]]


def _of_payload(event: dict, version: int | None, held: bool) -> Change:
    action = event["type"].rpartition(".")[2]
    actor = event.get("actorname") or event.get("actorid") or "unknown"
    return Change(
        event["id"], event["subject"].partition("/")[0], action, version, datetime.fromisoformat(event["time"]), actor,
        event.get("actortype", ""), event.get("reason"), event.get("requestid"), None, held,
        differences(event["data"].get("changes"), action),
    )  # fmt: skip


def history(task_id, limit: int) -> list[Change]:
    """Pending and recorded changes, newest first. The outbox is read first, so that an event recorded between the two
    reads is seen twice (and shown once) rather than never."""
    waiting = pending(task_id, limit)
    recorded = entries(task_id, limit)
    known = {str(change.event_id) for change in recorded}
    return ([change for change in waiting if str(change.event_id) not in known] + recorded)[:limit]
