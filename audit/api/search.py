"""The search of the audit log, newest first, by keyset on `seq`: a page costs the same however much the log holds.

An index leads: of the event, the task, the actor, else `seq` itself. What it does not bear is looked for among the next WINDOW
entries that it leads to; a page may then hold few or none and lead on by its Link header.

A time span is a span of `seq`, since the log is in the order of its recording: where it begins and ends is found by
bisection. An event that was recorded late (Kafka was away, somebody held it) stands beyond the end of the span in which it
occurred: an index leads to those by their time, and where that are more than WINDOW, another one by `seq`, of which a page
looks at the next WINDOW.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection

from audit import bisection
from audit.api.queries import DOCUMENT
from tasks.api.pagination import EVERYTHING, Page, Slice, cut

WINDOW = 10_000
# As in the index task_audit_log_late (migration 0006).
_LATE = "e.processed_at - e.occurred_at >= interval '1 minute'"
# By how much PostgreSQL's clock may have been set back without an entry being missed.
_CLOCK = timedelta(minutes=1)
# As long as nothing later than a minute counts as late.
_AFTER = timedelta(minutes=1) + _CLOCK


@dataclass(slots=True)
class Search:
    """What to look for; what is empty is no condition."""

    events: list[uuid.UUID] = field(default_factory=list)
    tasks: list[uuid.UUID] = field(default_factory=list)
    actors: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """An SQL condition on the entry `e`, with its parameters; `column` is the one that it wants equal to its only value."""

    sql: str
    values: tuple
    column: str | None = None

    @staticmethod
    def any_of(column: str, values: list) -> "Part":
        return Part(f"e.{column} IN ({', '.join(['%s'] * len(values))})", tuple(values))

    @staticmethod
    def each_of(column: str, values: list) -> "list[Part]":
        return [Part(f"e.{column} = %s", (value,), column) for value in values]

    def between(self, low: int | None, high: int | None) -> "Part":
        """The same from one `seq` to another, as a stretch of the index `(column, seq)`. As an equality PostgreSQL might walk
        along `seq` alone, since it takes the entries of one who has many for spread over all, even if they ceased long ago."""
        of, (value,) = f"(e.{self.column}, e.seq)", self.values
        sql = f"{of} >= (%s, %s::bigint) AND {of} <= (%s, %s::bigint)"
        return Part(sql, (value, low or 0, value, EVERYTHING if high is None else high))


_EVERYTHING = Part("TRUE", ())


def _all_of(parts: list[Part]) -> str:
    return " AND ".join(f"({part.sql})" for part in parts)


def page(search: Search, at: Page) -> Slice:
    """At most three statements: where the time span lies, how far to look, and the page."""
    leading, others = _parts(search)
    low, high = _span(search)
    rows = _Rows(leading, others, _within(search), low, high, at)
    if not others:
        return cut(rows.read(_ALL), at)
    window = rows.window()
    found = cut(rows.read(window), at)
    # `seq` is gapless: the neighbours of a window are known without a row in it.
    if at.backward:
        return Slice(found.texts, found.newer or window.end, at.key + 1)
    return Slice(found.texts, None if at.key is None else at.key - 1, found.older or window.end)


def _parts(search: Search) -> tuple[list[Part], list[Part]]:
    """The conditions of which one index each gives the rows in their order, any of them to be fulfilled; and the others, all
    to be fulfilled. `IN` on several values would give no order."""
    indexed = [
        [Part.any_of("event_id", search.events)] if search.events else [],
        Part.each_of("task_id", search.tasks),
        Part.each_of("actor_id", search.actors),
    ]
    leading = next(filter(None, indexed), [_EVERYTHING])
    others = [
        Part.any_of(column, values)
        for column, values in (("task_id", search.tasks), ("actor_id", search.actors))
        if values and leading is not indexed[1 if column == "task_id" else 2]
    ]
    others += [Part.any_of(c, v) for c, v in (("event_type", search.types), ("request_id", search.request_ids)) if v]
    if search.changed:
        fields = ", ".join(["%s"] * len(search.changed))
        others.append(Part(f"e.event_data #> '{{data,changes}}' ?| ARRAY[{fields}]::text[]", tuple(search.changed)))
    # `IS TRUE`: else PostgreSQL takes the index on times and that on `seq` for two independent conditions, and sorts all the span.
    others += [Part(f"({part.sql}) IS TRUE", part.values) for part in _within(search)]
    return leading, others


def _within(search: Search) -> list[Part]:
    bounds = ((search.since, ">="), (search.until, "<"))
    return [Part(f"e.occurred_at {sign} %s::timestamptz", (bound,)) for bound, sign in bounds if bound is not None]


def _span(search: Search) -> tuple[int | None, int | None]:
    """The first and the last `seq` between which everything stands that occurred in the span and was not recorded late."""
    bounds = {}
    if search.since is not None:
        bounds["before"] = search.since - _CLOCK
    if search.until is not None:
        bounds["within"] = search.until + _AFTER
    if not bounds:
        return None, None
    queries = ", ".join(bisection.last(name, "TRUE", f"e.processed_at < %({name})s::timestamptz") for name in bounds)
    columns = ", ".join(f"(SELECT coalesce(max(seq), 0) FROM {name})" for name in bounds)
    with connection.cursor() as cursor:
        cursor.execute(f"WITH RECURSIVE {queries} SELECT {columns}", bounds)
        found = dict(zip(bounds, cursor.fetchone(), strict=True))
    return (found["before"] + 1 if "before" in found else None), found.get("within")


class _Window(NamedTuple):
    """What a page looks at: entries of the span, of those recorded late, or of both where the first are all looked at."""

    # The last entry to look at; None if that is all there is.
    end: int | None
    in_span: bool
    late: bool
    # There are more than WINDOW that were recorded late.
    many_late: bool = False


_ALL = _Window(None, in_span=True, late=False)


@dataclass(slots=True)
class _Rows:
    leading: list[Part]
    others: list[Part]
    within: list[Part]
    low: int | None
    high: int | None
    at: Page

    def window(self) -> _Window:
        """What was recorded late is newer than the rest: it comes first, or last of all on the way back."""
        parts, values = self._branches("e.seq", [], None, WINDOW)
        edge = f"CASE WHEN count(*) = {WINDOW} THEN {'max' if self.at.backward else 'min'}(seq) END"
        late, late_values = self._late_window(edge) if self.high is not None else ("false AS many, NULL AS late_end", [])
        statement = f"""SELECT w.*, l.* FROM (
  SELECT {edge} FROM (SELECT seq FROM ({parts}) w {self._order("w")} LIMIT {WINDOW}) w) w CROSS JOIN (SELECT {late}) l"""
        with connection.cursor() as cursor:
            cursor.execute(statement, [*values, *late_values])
            end, many, late_end = cursor.fetchone()
        if self.high is None:
            return _Window(end, in_span=True, late=False)
        if self.at.backward:
            return _Window(late_end if end is None else end, in_span=True, late=end is None, many_late=many)
        return _Window(end if late_end is None else late_end, in_span=late_end is None, late=True, many_late=many)

    def _late_window(self, edge: str) -> tuple[str, list]:
        """Columns: whether more than WINDOW of the span were recorded late, and the last of the next WINDOW late ones, if so. In
        order of their time, since PostgreSQL would look for them among all entries otherwise."""
        late = [Part(_LATE, ()), *self.within]
        several = f"""(SELECT count(*) > {WINDOW} FROM (SELECT FROM task_audit_log e WHERE {_all_of(late)}
  ORDER BY e.occurred_at LIMIT {WINDOW + 1}) p)"""
        next_ones, values = self._late_by_seq("e.seq")
        text = f"{several} AS many, CASE WHEN {several} THEN (SELECT {edge} FROM {next_ones} w) END AS late_end"
        of_late = [value for part in late for value in part.values]
        return text, [*of_late, *of_late, *values]

    def read(self, window: _Window) -> list[tuple[int, str]]:
        """`seq` and JSON of a page and of one row more, if there is one, in the order of reading; none beyond the window."""
        limit = self.at.limit + 1
        sources = []
        if window.in_span:
            # Where late ones are looked at too, the window's end is theirs on the way back.
            its_end = None if self.at.backward and window.late else window.end
            sources.append(self._branches("e.*", self.others, its_end, limit))
        if window.late:
            sources.append(self._late(window, limit))
        parts = " UNION ALL ".join(text for text, _ in sources)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT e.seq, row_to_json(d)::text FROM (SELECT * FROM ({parts}) e {self._order('e')} LIMIT {limit}) e "
                f"CROSS JOIN LATERAL ({DOCUMENT}) d {self._order('e')}",
                [value for _, values in sources for value in values],
            )
            return cursor.fetchall()

    def _late(self, window: _Window, limit: int) -> tuple[str, list]:
        if window.many_late:
            source, source_values = self._late_by_seq("e.*")
            conditions = [*self.others, self._any_leading()]
        else:
            source, source_values = self._late_by_time()
            conditions = [Part("e.seq > %s::bigint", (self.high,)), *self._after_cursor(), *self.others, self._any_leading()]
        select, values = self._select("e.*", conditions, limit, source=source)
        return select, [*source_values, *values]

    def _late_by_time(self) -> tuple[str, list]:
        """OFFSET 0, since PostgreSQL takes late entries for a third of all and would look for them along `seq`."""
        late = [Part(_LATE, ()), *self.within]
        return f"(SELECT * FROM task_audit_log e WHERE {_all_of(late)} OFFSET 0)", [v for part in late for v in part.values]

    def _late_by_seq(self, columns: str) -> tuple[str, list]:
        """The next WINDOW of all that was recorded late and stands beyond the span, whenever it occurred."""
        late = [Part(_LATE, ()), Part("e.seq > %s::bigint", (self.high,)), *self._after_cursor()]
        text = f"(SELECT {columns} FROM task_audit_log e WHERE {_all_of(late)} {self._order('e')} LIMIT {WINDOW})"
        return text, [value for part in late for value in part.values]

    def _branches(self, columns: str, conditions: list[Part], end: int | None, limit: int) -> tuple[str, list]:
        """What each leading condition leads to, as far as `end`."""
        low, high = self._bounds(end)
        span = [Part(f"e.seq {sign} %s::bigint", (bound,)) for bound, sign in ((low, ">="), (high, "<=")) if bound is not None]
        selects, values = [], []
        for one in self.leading:
            leads = one.between(low, high) if one.column else one
            select, its_values = self._select(columns, [leads, *conditions, *span], limit, one.column)
            selects.append(select)
            values += its_values
        return " UNION ALL ".join(selects), values

    def _select(
        self, columns: str, conditions: list[Part], limit: int, column: str | None = None, source: str = "task_audit_log"
    ) -> tuple[str, list]:
        where, direction = _all_of(conditions), self._direction
        values = [value for part in conditions for value in part.values]
        order = f"e.{column} {direction}, e.seq {direction}" if column else f"e.seq {direction}"
        return f"(SELECT {columns} FROM {source} e WHERE {where} ORDER BY {order} LIMIT {limit})", values

    def _any_leading(self) -> Part:
        values = tuple(value for part in self.leading for value in part.values)
        return Part(" OR ".join(part.sql for part in self.leading), values)

    def _after_cursor(self) -> list[Part]:
        if self.at.key is None:
            return []
        return [Part(f"e.seq {'>' if self.at.backward else '<'} %s::bigint", (self.at.key,))]

    def _bounds(self, end: int | None) -> tuple[int | None, int | None]:
        """The first and the last `seq` of the span that stand after the cursor and not after `end`, in the order of reading."""
        lows, highs = [self.low], [self.high]
        if self.at.key is not None:
            (lows if self.at.backward else highs).append(self.at.key + (1 if self.at.backward else -1))
        (highs if self.at.backward else lows).append(end)
        lows, highs = ([bound for bound in bounds if bound is not None] for bounds in (lows, highs))
        return max(lows, default=None), min(highs, default=None)

    @property
    def _direction(self) -> str:
        return "ASC" if self.at.backward else "DESC"

    def _order(self, of: str) -> str:
        return f"ORDER BY {of}.seq {self._direction}"
