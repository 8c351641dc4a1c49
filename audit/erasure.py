"""Erasing a person's data, or a task's, from the log and from the dead letters.

A procedure of the database does it (0005_redaction.sql); here is what stands around it: which dead letters are concerned,
the wait for the outbox, and the way through a long log in steps, each a transaction of its own. Answers that are kept for
retries go too.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from django.db import OperationalError, connection, transaction
from psycopg.errors import ObjectInUse

from audit.models import DeadLetter

# Entries that are looked at in one statement; and erased in one transaction, as the procedure has it.
WINDOW, STEP = 20_000, 1_000
_PAUSE = 0.1  # seconds between two looks at the outbox
_LISTED_NAMES = """
SELECT DISTINCT name FROM (
  SELECT e.actor_name AS name FROM task_audit_log e WHERE e.seq = ANY (%(seqs)s) AND e.actor_id = %(actor)s
  UNION SELECT jsonb_path_query(e.event_data, '$.data.*.* ? (@.id == $id)', jsonb_build_object('id', %(actor)s::text)) ->> 'name'
  FROM task_audit_log e WHERE e.seq = ANY (%(seqs)s)
) names WHERE name <> ''
"""
_ACCOUNT = "SELECT username, email, btrim(first_name || ' ' || last_name) FROM auth_user WHERE id::text = %s"


class StillWaiting(Exception):
    """Events that are concerned are in the outbox and do not leave it; the message says how many, and of what kind."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose data: an actor's (the id that entries show) or a task's; the other is None."""

    actor: str | None = None
    task: UUID | None = None


@dataclass(slots=True)
class Found:
    """What is to be erased. `names` are those under which an actor stands in it."""

    entries: int = 0
    first: int | None = None
    last: int | None = None
    letters: list[int] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def find(scope: Scope, progress: Callable[[int, int], None] = lambda done, of: None) -> Found:
    """Looks through the log and the dead letters, and changes nothing."""
    found = Found()
    after, newest = 0, newest_seq()
    while after < newest:
        seqs, after = _concerned(scope, after, newest)
        if seqs:
            found.entries += len(seqs)
            found.first, found.last = found.first or seqs[0], seqs[-1]
            if scope.actor is not None:
                found.names |= _names(_LISTED_NAMES, {"seqs": seqs, "actor": scope.actor})
        progress(after, newest)
    if scope.actor is not None:
        found.names |= _names(_ACCOUNT, [scope.actor])
    found.letters = letters_concerned(scope, found.names)
    return found


def erase(scope: Scope, letters: list[int], asked_by: str, wait: float, progress=lambda done, of: None) -> int:
    """Erases what `find` finds, and what came since; the reason is that of the current context. Returns how many entries.

    May be repeated: what is erased stays as it is, and no event tells of nothing. Raises StillWaiting when the outbox holds
    an event concerned for longer than `wait` seconds; what was erased until then is, and has its events.
    """
    deadline = time.monotonic() + wait
    count = 0
    after, newest = 0, None
    while newest is None or after < newest:
        erased, last = _patiently(scope, letters, asked_by, after, deadline)
        letters = []
        count += erased
        newest = newest_seq()
        after = last if erased == STEP else after + WINDOW if scope.task is None else newest
        progress(min(after, newest), newest)
    _forget_answers(scope)
    return count


def _forget_answers(scope: Scope) -> None:
    """What is kept for retries (tasks/kept_answers.py) would be gone in a day. Last: no change concerned is on its way now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tasks_forget_answers(%s::text, %s::uuid)", [scope.actor, scope.task])


def _patiently(scope: Scope, letters: list[int], asked_by: str, after: int, deadline: float) -> tuple[int, int]:
    until = after + WINDOW if scope.task is None else 2**62
    while True:
        try:
            # In a transaction, so that the database is told who does it, and why.
            with transaction.atomic(), connection.cursor() as cursor:
                parameters = [scope.actor, scope.task, letters, asked_by, after, until]
                cursor.execute("CALL audit_redact(%s::text, %s::uuid, %s::bigint[], %s, %s, %s)", parameters)
                return cursor.fetchone()
        except OperationalError as error:
            if not isinstance(error.__cause__, ObjectInUse):
                raise
        if time.monotonic() >= deadline:
            raise StillWaiting(_waiting(scope))
        time.sleep(_PAUSE)


def _waiting(scope: Scope) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE held_at IS NOT NULL) FROM audit_outbox_concerned(%s, %s)",
            [scope.actor, scope.task],
        )
        waiting, held = cursor.fetchone()
    return f"{waiting} events that are concerned wait in the outbox" + (f", {held} of them held (manage.py held)" if held else "")


def newest_seq() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(seq), 0) FROM task_audit_log")
        return cursor.fetchone()[0]


def _concerned(scope: Scope, after: int, newest: int) -> tuple[list[int], int]:
    """Some of the entries after `after`, and after which to go on. With a task an index leads from one to the next."""
    until = min(after + WINDOW, newest) if scope.task is None else newest
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM audit_entries_concerned(%s, %s, %s, %s, %s)", [scope.actor, scope.task, after, until, WINDOW])
        seqs = [seq for (seq,) in cursor.fetchall()]
    return seqs, seqs[-1] if len(seqs) == WINDOW else until


def _names(statement: str, parameters) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return {name for row in cursor.fetchall() for name in row if name}


def letters_concerned(scope: Scope, names: set[str]) -> list[int]:
    """Dead letters that hold the task's id, the actor's id where an event holds a person's, or one of the names as a word."""
    pattern = words({str(scope.task), scope.task.hex} if scope.task is not None else names)
    letters = DeadLetter.objects.order_by("pk").values_list("pk", "key", "value", "headers")
    return [pk for pk, *parts in letters.iterator(chunk_size=20) if _is_concerned(parts, scope, pattern)]


def words(texts: set[str]) -> re.Pattern | None:
    """What finds any of the texts, whole words alone and whatever their case; None for no texts."""
    # A JSON text may spell a name in escapes.
    spelt = {spelling for text in texts if text.strip() for spelling in (text, json.dumps(text)[1:-1])}
    told = "|".join(re.escape(text) for text in sorted(spelt))
    return re.compile(rf"(?<!\w)(?:{told})(?!\w)", re.IGNORECASE) if told else None


def _is_concerned(parts, scope: Scope, pattern: re.Pattern | None) -> bool:
    key, value, headers = parts
    raw = [bytes(part) for part in (key, value) if part is not None]
    raw += [part for name, content in headers for part in (name.encode(), bytes.fromhex(content or ""))]
    if pattern is not None and any(pattern.search(part.decode("utf-8", "surrogateescape")) for part in raw):
        return True
    return scope.actor is not None and value is not None and _names_actor(bytes(value), scope.actor)


def _names_actor(value: bytes, actor: str) -> bool:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return False
    pending = [document]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if part.get("actorid") == actor or (part.get("id") == actor and "name" in part):
                return True
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return False
