"""The orderings of the task list, and the positions in them that cursors name.

Each is by one column and then by id, so that no two rows share a position. A list is in parts that follow each other: rows
that have the column's value and, after them in either direction, those that have none; for priorities a part each.
"""

import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tasks.models import Priority, Status

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Number of the ordering, number of the part, microseconds since 1970, id.
_POSITION = struct.Struct(">BBq16s")


class Part(NamedTuple):
    """`valued`: whether its rows have the column's value, or none of them, or it need not be said (None). `only`: values of
    other columns that all of its rows have."""

    valued: bool | None = None
    only: dict[str, tuple[str, ...]] = {}


class Position(NamedTuple):
    """Of a row: its part, the value of the column (None where it has none), its id."""

    part: int
    moment: datetime | None
    id: uuid.UUID


class Ordering(NamedTuple):
    name: str
    # In cursors; a number once given keeps its meaning.
    number: int
    column: str
    descending: bool
    parts: tuple[Part, ...] = (Part(),)

    def write(self, at: Position) -> bytes:
        moment = 0 if at.moment is None else (at.moment - _EPOCH) // _MICROSECOND
        return _POSITION.pack(self.number, at.part, moment, at.id.bytes)

    def read(self, raw: bytes) -> Position | None:
        """None for what is no position in this ordering."""
        if len(raw) != _POSITION.size:
            return None
        number, part, microseconds, key = _POSITION.unpack(raw)
        if number != self.number or part >= len(self.parts):
            return None
        if self.parts[part].valued is False:
            return None if microseconds else Position(part, None, uuid.UUID(bytes=key))
        try:
            return Position(part, _EPOCH + timedelta(microseconds=microseconds), uuid.UUID(bytes=key))
        except OverflowError:
            return None

    def position(self, part: int, moment: str | None, key: str) -> Position:
        """Of a row as PostgreSQL writes it."""
        return Position(part, moment and datetime.fromisoformat(moment), uuid.UUID(key))


_VALUED = (Part(True), Part(False))
_OPEN = (Status.PENDING.value, Status.IN_PROGRESS.value)
# The rule task_completed_at_with_status, which PostgreSQL does not conclude from.
_COMPLETED = (Part(True, {"status": (Status.COMPLETED.value,)}), Part(False, {"status": _OPEN}))
_RISING = tuple(Part(only={"priority": (value,)}) for value in (Priority.LOW.value, Priority.MEDIUM.value, Priority.HIGH.value))

DEFAULT = Ordering("-created_at", 1, "created_at", True)
ORDERINGS = {
    ordering.name: ordering
    for ordering in (
        DEFAULT,
        Ordering("created_at", 2, "created_at", False),
        Ordering("-updated_at", 3, "updated_at", True),
        Ordering("updated_at", 4, "updated_at", False),
        Ordering("-due_at", 5, "due_at", True, _VALUED),
        Ordering("due_at", 6, "due_at", False, _VALUED),
        Ordering("-completed_at", 7, "completed_at", True, _COMPLETED),
        Ordering("completed_at", 8, "completed_at", False, _COMPLETED),
        # Within a priority by creation: high ones first and of those the newest, or low ones first and of those the oldest.
        Ordering("-priority", 9, "created_at", True, _RISING[::-1]),
        Ordering("priority", 10, "created_at", False, _RISING),
    )
}
