"""Leaf record v1: the bytes of an audit entry that the log's Merkle tree commits to (docs/leaf-record.md).

The RFC 8785 (JCS) form of a JSON array. The bytes never change for an entry that is recorded: another form needs
another name in its first element.
"""

from datetime import UTC, datetime
from uuid import UUID

import orjson

from tasks.events import rfc3339

NAME = "taskpulse-leaf-v1"
# C2SP tlog-tiles: entries stand in a bundle with a length of 16 bits before each.
MAX_RECORD = 65_535
# Whole numbers beyond 2^53 - 1 are refused: JCS would write them as the nearest double.
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_STRICT_INTEGER


def record(
    origin: str,
    seq: int,
    event_id: UUID,
    event_type: str,
    subject_type: str,
    subject_id: str,
    version: int | None,
    task_id: UUID | None,
    actor_id: str | None,
    occurred_at: datetime,
    processed_at: datetime,
    topic: str,
    partition: int,
    offset: int,
    digest: bytes,
) -> bytes:
    """The leaf record of one entry; `digest` is the SHA-256 of the event's bytes. Times bear a zone.

    Raises ValueError for what no record can hold: more than 65,535 bytes, a number of more than 53 bits, a lone
    surrogate, a time without zone or outside the years 1 to 9999 in UTC, a digest of another length.
    """
    if len(digest) != 32:
        raise ValueError(f"leaf record of entry {seq}: a digest is 32 bytes, got {len(digest)}")
    return encode([
        NAME, origin, seq, event_id, event_type, subject_type, subject_id, version, task_id, actor_id,
        _time(occurred_at), _time(processed_at), topic, partition, offset, digest.hex(),
    ])  # fmt: skip


def encode(elements: list) -> bytes:
    """The record of its 16 elements, in their documented order; ids and times may stand as text. Raises ValueError as
    above."""
    try:
        raw = orjson.dumps(elements, option=_OPTIONS)
    except TypeError as error:
        raise ValueError(f"leaf record of entry {elements[2]}: {error}") from None
    if len(raw) > MAX_RECORD:
        raise ValueError(f"leaf record of entry {elements[2]}: {len(raw)} bytes, at most {MAX_RECORD} fit a tile")
    return raw


def _time(moment: datetime) -> datetime | str:
    """What orjson writes as RFC 3339, UTC, six digits, `Z`: a tenth of `rfc3339`'s cost, and as a rule possible.

    orjson leaves out a fraction of zero and writes another zone as its offset.
    """
    if moment.tzinfo is UTC and moment.microsecond:
        return moment
    if moment.tzinfo is None:
        raise ValueError("leaf record: a time without zone")
    try:
        return rfc3339(moment)
    except OverflowError:
        raise ValueError("leaf record: a time that UTC puts outside the years 1 to 9999") from None
