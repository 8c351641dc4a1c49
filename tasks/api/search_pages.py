"""The pages of a search: their order by relevance, and cursors that remember what the first page found."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import struct
import uuid
from typing import NamedTuple

from tasks.api import search
from tasks.api.ordering import Ordering, Part, Position
from tasks.api.pagination import Page
from tasks.api.search import Frame


class Rank(NamedTuple):
    """The position of a row in the order of relevance."""

    part: int
    rank: float
    id: uuid.UUID


# Number of the ordering, rank, id.
_RANK = struct.Struct(">Bf16s")


class Relevance(NamedTuple):
    """The ordering (tasks.api.ordering) by how well a task matches what was typed: the title counts most, then labels and
    category, the summary, the description; of equals the newest first."""

    typed: str
    number: int = 128
    column: str = "rank"
    descending: bool = True
    parts: tuple[Part, ...] = (Part(),)

    def write(self, at: Rank) -> bytes:
        return _RANK.pack(self.number, at.rank, at.id.bytes)

    def read(self, raw: bytes) -> Rank | None:
        if len(raw) != _RANK.size:
            return None
        number, rank, key = _RANK.unpack(raw)
        return Rank(0, rank, uuid.UUID(bytes=key)) if number == self.number and 0 <= rank <= 1 else None

    def position(self, part: int, rank: str, key: str) -> Rank:
        return Rank(part, float(rank), uuid.UUID(key))

    def select(self, at: Page) -> tuple[str, list]:
        """As `rows.select`."""
        way, than = ("ASC", ">") if at.backward else ("DESC", "<")
        beyond = f"WHERE (rank, task_id) {than} (%s::real, %s)" if at.key else ""
        text = f"""SELECT t.*, 0 AS part, ranked.rank FROM (
  SELECT task_id, rank FROM (SELECT task_id, ts_rank(words, {search.query(self.typed).exact}) AS rank FROM found) ranked
  {beyond} ORDER BY rank {way}, task_id {way} LIMIT {at.limit + 1}) ranked JOIN tasks_task t ON t.id = ranked.task_id"""
        return text, [at.key.rank, at.key.id] if at.key else []


class Place(NamedTuple):
    """Of a row: the frame that it was found in, and its position there."""

    frame: Frame
    position: Position | Rank


_UUID_BYTES = 16


class PlaceKeys(NamedTuple):
    """The keys (tasks.api.pagination) of a search in an ordering."""

    ordering: Ordering | Relevance
    # None: it is the first page that makes the frame.
    frame: Frame | None = None

    def write(self, at: Place) -> bytes:
        return at.frame.oldest.bytes + at.frame.newest.bytes + self.ordering.write(at.position)

    def read(self, raw: bytes) -> Place | None:
        position = self.ordering.read(raw[2 * _UUID_BYTES :])
        if position is None:
            return None
        return Place(Frame(*(uuid.UUID(bytes=raw[at : at + _UUID_BYTES]) for at in (0, _UUID_BYTES))), position)

    def columns(self) -> str:
        """What a statement selects for `position`, besides what the ordering takes."""
        if self.frame:
            return f", '{self.frame.oldest}', '{self.frame.newest}'"
        return "".join(f", (SELECT task_id FROM found ORDER BY task_id {way} LIMIT 1)::text" for way in ("ASC", "DESC"))

    def position(self, part: int, value: str | None, key: str, oldest: str, newest: str) -> Place:
        return Place(Frame(uuid.UUID(oldest), uuid.UUID(newest)), self.ordering.position(part, value, key))
