"""Dead letters: what arrived and is no true event is kept with its raw bytes, and stops nothing."""

import hashlib
import logging
from dataclasses import dataclass
from operator import methodcaller

import orjson
from confluent_kafka import Message
from django.db import connection

from audit.models import DeadLetter
from taskpulse.metrics import DEAD_LETTERS

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


def store(refused: list[Refused]) -> None:
    """Keeps each once: the same bytes at the same place are the same message, seen again."""
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, [_row(item) for item in refused])


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
