"""Dead letters: what arrived and is no true event is kept with its raw bytes, as long as there is room, and stops nothing."""

import hashlib
import logging
import time
from dataclasses import dataclass
from operator import methodcaller

import orjson
from confluent_kafka import Message
from django.conf import settings
from django.db import connection

from audit.models import DeadLetter
from taskpulse.metrics import DEAD_LETTERS
from tasks.outbox import COUNTED

logger = logging.getLogger("taskpulse.recorder")

# Stands for a header's name that is not UTF-8: confluent-kafka does not give its bytes away.
UNREADABLE_NAME = "\ufffd"


@dataclass(frozen=True, slots=True)
class Refused:
    """`reason` is one of DeadLetter.Reason; `detail` says more and quotes nothing of the message."""

    message: Message
    reason: str
    detail: str


def begin_counting() -> None:
    """Shows a 0 for each reason: the first dead letter would else be no increase to Prometheus, which sees none from nothing."""
    for reason in DeadLetter.Reason.values:
        DEAD_LETTERS.labels(reason)


_INSERT = """
INSERT INTO audit_dead_letter (topic, partition, "offset", key, value, headers, value_digest, reason, detail)
VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s) ON CONFLICT DO NOTHING
"""


# The files first: to add up what is there reads all rows, and the files keep their size when letters are swept.
_IS_FULL = """
SELECT pg_total_relation_size('audit_dead_letter') >= %(most)s AND
  (SELECT coalesce(sum(coalesce(octet_length(value), 0) + coalesce(octet_length(key), 0) + pg_column_size(headers)), 0)
   FROM audit_dead_letter) >= %(most)s
"""
_MEGABYTE = 1_000_000
# Seconds for which a table that is full is not asked again.
_FULL_FOR = 10.0
_full_until = 0.0


def store(refused: list[Refused]) -> None:
    """Keeps each once: the same bytes at the same place are the same message, seen again.

    Its bytes are kept until all letters have DEAD_LETTER_MB of them: whoever may produce to the topic must not fill the
    disk. From then on digest, place, reason and length are kept, and `detail` says so.
    """
    with connection.cursor() as cursor:
        full = _is_full(cursor)
        cursor.executemany(_INSERT, [_without_bytes(item) if full else _row(item) for item in refused])


def _is_full(cursor) -> bool:
    global _full_until
    if time.monotonic() < _full_until:
        return True
    cursor.execute(_IS_FULL, {"most": settings.DEAD_LETTER_MB * _MEGABYTE})
    (full,) = cursor.fetchone()
    if full:
        _full_until = time.monotonic() + _FULL_FOR
        logger.warning(
            "dead letters hold %d MB (TASKPULSE_DEAD_LETTER_MB): bytes of new ones are not kept", settings.DEAD_LETTER_MB
        )
    return full


def table_bytes() -> int:
    """What the dead letters take on the disk, indexes included. Raises django.db's errors."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size('audit_dead_letter')")
        return cursor.fetchone()[0]


def count(refused: list[Refused]) -> None:
    """After the commit: one metric each, one log line for the batch."""
    for item in refused:
        DEAD_LETTERS.labels(item.reason).inc()
    if refused:
        first = refused[0]
        place = f"{first.message.topic()}/{first.message.partition()}/{first.message.offset()}"
        logger.warning("%d dead letters, the first at %s: %s (%s)", len(refused), place, first.reason, first.detail)


def _row(item: Refused) -> tuple:
    message = item.message
    value = message.value()
    headers = [[storable(name), None if raw is None else bytes(raw).hex()] for name, raw in _headers(message)]
    return (
        message.topic(), message.partition(), message.offset(), message.key(), value, orjson.dumps(headers).decode(),
        hashlib.sha256(value or b"").digest(), item.reason, storable(item.detail),
    )  # fmt: skip


def _without_bytes(item: Refused) -> tuple:
    topic, partition, offset, _, value, _, digest, reason, detail = _row(item)
    note = f"{detail}; its {len(value or b''):,} bytes, key and headers are not kept (TASKPULSE_DEAD_LETTER_MB)"
    return topic, partition, offset, None, None, "[]", digest, reason, note


# Not `message.headers()`: CPython checks what a specialised call site is given back no more, and the SystemError that is
# described below would come up at some later line.
_read_headers = methodcaller("headers")


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    """The message's headers, safe to look at.

    On a name that is not UTF-8, confluent-kafka (2.16) returns with an exception set (CPython makes it a SystemError) the
    first time, and later pairs that hold a null pointer in place of that name: to touch it ends the process. Only the
    pair's repr tells.
    """
    try:
        pairs = _read_headers(message)
    except (SystemError, UnicodeDecodeError):
        pairs = _read_headers(message)
    return [(UNREADABLE_NAME if repr(pair).startswith("(<NULL>") else pair[0], pair[1]) for pair in pairs or []]


def storable(text: str) -> str:
    """PostgreSQL's text and JSONB hold neither NUL nor lone surrogates: both become U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def state() -> dict:
    """What is kept here: `count`, up to one more than COUNTED, and `oldest_at`. Two look-ups by the key, one statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT count(*) FROM (SELECT FROM audit_dead_letter LIMIT %s) kept),
                   (SELECT received_at FROM audit_dead_letter ORDER BY id LIMIT 1)
            """,
            [COUNTED + 1],
        )
        count, oldest = cursor.fetchone()
    return {"count": count, "oldest_at": oldest}
