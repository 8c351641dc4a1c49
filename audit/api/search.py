"""The search of the audit log, newest first, by keyset on `seq`: a page costs the same however much the log holds.

An index leads: of the event, the task, the actor, else `seq` itself. What it does not bear is looked for among the next WINDOW
entries that it leads to; a page may then hold few or none and lead on by its Link header.

A time span is a span of `seq`, since the log is in the order of its recording: where it begins and ends is found by
bisection. An event that was recorded late (Kafka was away, somebody held it) stands beyond the end of the span in which it
occurred; there are few of those, and they have an index.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection

from audit import bisection
from audit.api.queries import DOCUMENT
from tasks.api.pagination import Page, Slice, cut

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
    """An SQL condition on the entry `e`, with its parameters."""

    sql: str
    values: tuple

    @staticmethod
    def any_of(column: str, values: list) -> "Part":
        return Part(f"e.{column} IN ({', '.join(['%s'] * len(values))})", tuple(values))


_EVERYTHING = Part("TRUE", ())


def page(search: Search, at: Page) -> Slice:
    """At most three statements: where the time span lies, how far to look, and the page."""
    leading, others = _parts(search)
    low, high = _span(search)
    rows = _Rows(leading, others, _within(search), low, high, at)
    if not others:
        return cut(rows.read(None), at)
    end = rows.end_of_window()
    found = cut(rows.read(end), at)
    # `seq` is gapless: the neighbours of a window are known without a row in it.
    if at.backward:
        return Slice(found.texts, found.newer or end, at.key + 1)
    return Slice(found.texts, None if at.key is None else at.key - 1, found.older or end)


def _parts(search: Search) -> tuple[list[Part], list[Part]]:
    """The conditions of which one index each gives the rows in their order, any of them to be fulfilled; and the others, all
    to be fulfilled. `IN` on several values would give no order."""
    indexed = [
        [Part.any_of("event_id", search.events)] if search.events else [],
        [Part("e.task_id = %s", (task,)) for task in search.tasks],
        [Part("e.actor_id = %s", (actor,)) for actor in search.actors],
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


@dataclass(slots=True)
class _Rows:
    leading: list[Part]
    others: list[Part]
    within: list[Part]
    low: int | None
    high: int | None
    at: Page

    def end_of_window(self) -> int | None:
        """The last entry to look at for this page; None if that is all there is."""
        parts, values = self._branches("e.seq", [], self._range(None), WINDOW)
        edge = "max" if self.at.backward else "min"
        statement = f"SELECT count(*), {edge}(seq) FROM (SELECT seq FROM ({parts}) w {self._order('w')} LIMIT {WINDOW}) w"
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            count, end = cursor.fetchone()
        return end if count == WINDOW else None

    def read(self, end: int | None) -> list[tuple[int, str]]:
        """`seq` and JSON of a page and of one row more, if there is one, in the order of reading; none beyond `end`."""
        limit = self.at.limit + 1
        parts, values = self._branches("e.*", self.others, self._range(end), limit)
        # What was recorded late is newer than the rest: it comes first, or last of all on the way back.
        if self.high is not None and not (self.at.backward and end is not None):
            more, more_values = self._late(limit)
            parts, values = f"{parts} UNION ALL {more}", values + more_values
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT e.seq, row_to_json(d)::text FROM (SELECT * FROM ({parts}) e {self._order('e')} LIMIT {limit}) e "
                f"CROSS JOIN LATERAL ({DOCUMENT}) d {self._order('e')}",
                values,
            )
            return cursor.fetchall()

    def _late(self, limit: int) -> tuple[str, list]:
        """OFFSET 0, since PostgreSQL takes late entries for a third of all and would look for them along `seq`."""
        late = [Part(_LATE, ()), *self.within]
        source = f"(SELECT * FROM task_audit_log e WHERE {' AND '.join(part.sql for part in late)} OFFSET 0)"
        beyond = [Part("e.seq > %s::bigint", (self.high,)), *self._after_cursor(), *self.others, self._any_leading()]
        select, values = self._select("e.*", beyond, limit, source)
        return select, [*(value for part in late for value in part.values), *values]

    def _branches(self, columns: str, conditions: list[Part], span: list[Part], limit: int) -> tuple[str, list]:
        selects, values = [], []
        for one in self.leading:
            select, its_values = self._select(columns, [one, *conditions, *span], limit)
            selects.append(select)
            values += its_values
        return " UNION ALL ".join(selects), values

    def _select(self, columns: str, conditions: list[Part], limit: int, source: str = "task_audit_log") -> tuple[str, list]:
        where = " AND ".join(f"({part.sql})" for part in conditions)
        values = [value for part in conditions for value in part.values]
        return f"(SELECT {columns} FROM {source} e WHERE {where} {self._order('e')} LIMIT {limit})", values

    def _any_leading(self) -> Part:
        values = tuple(value for part in self.leading for value in part.values)
        return Part(" OR ".join(part.sql for part in self.leading), values)

    def _after_cursor(self) -> list[Part]:
        if self.at.key is None:
            return []
        return [Part(f"e.seq {'>' if self.at.backward else '<'} %s::bigint", (self.at.key,))]

    def _range(self, end: int | None) -> list[Part]:
        found = self._after_cursor()
        for bound, sign in ((self.low, ">="), (self.high, "<="), (end, "<=" if self.at.backward else ">=")):
            if bound is not None:
                found.append(Part(f"e.seq {sign} %s::bigint", (bound,)))
        return found

    def _order(self, of: str) -> str:
        return f"ORDER BY {of}.seq {'ASC' if self.at.backward else 'DESC'}"
