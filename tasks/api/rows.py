"""The rows of a page of tasks, by the indexes that give them in the list's order.

An index gives rows in order where the columns before the one of the ordering have one value each. So each combination of
values gets a branch of its own, which stops at the limit, and PostgreSQL merges them; `IN` would sort all that match, or look at
all that do not. So does each label that is asked for, and each person whose watched tasks are. Whatever else is asked is looked
at on the way.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)

import itertools
from dataclasses import replace
from typing import NamedTuple

from tasks.api import conditions
from tasks.api.conditions import Sql
from tasks.api.filters import Filters
from tasks.api.ordering import Ordering, Part, Position
from tasks.api.pagination import Page
from tasks.models import Priority, Status

# What an index holds before the column of the ordering and the id (`Task.Meta.indexes`), the best first.
_INDEXES = {
    "created_at": (
        ("parent_id",), ("assignee_id", "status"), ("category",), ("created_by_id",), ("status", "priority"),
    ),
    "updated_at": (("assignee_id", "status"), ("status",)),
    "due_at": (("assignee_id", "status"), ("status",)),
    "completed_at": (("assignee_id",),),
}  # fmt: skip
_VALUES = {"status": Status.values, "priority": Priority.values}
# These indexes leave out the tasks that have no value there.
_PARTIAL = frozenset({"parent_id", "category"})
_MOST_BRANCHES = 50


def select(filters: Filters, ordering: Ordering, at: Page) -> tuple[str, list]:
    """A statement for the rows of a page and one row more, if there is one, in the direction of `at`: the columns of a task
    and `part`. Whoever selects from it orders by `order()`."""
    stretches = _stretches(filters, ordering, at)
    if not stretches:
        return "SELECT t.*, 0 AS part FROM tasks_task t WHERE false", []
    if len(stretches) == 1:
        return _alone(*stretches[0])
    return _one_after_the_other(stretches, at)


def parts(filters: Filters, ordering: Ordering, at: Page) -> list[tuple[str, list]]:
    """A statement for each part of the list, as `select` has them all in one, of which each gives up to a whole page. PostgreSQL
    gives the rows of each as it reads them, where one statement for all keeps those of each part to the last, on disk if they
    are many."""
    return [_alone(*stretch) for stretch in _stretches(filters, ordering, at)]


def in_order(filters: Filters, ordering: Ordering) -> bool:
    """Whether indexes give what matches in the list's order and pass over nothing, so that no sort could read less."""
    columns = {condition.column for condition in filters.conditions}
    return (
        not filters.watchers
        and not filters.labels
        and columns <= {ordering.column}
        and all(filters.equal.keys() <= set(_Stretch(filters, ordering, part, Page(), None).leading()) for part in ordering.parts)
    )


def _stretches(filters: Filters, ordering: Ordering, at: Page) -> list[tuple[int, Sql]]:
    """The parts that may have rows of the page, with their numbers."""
    numbered = list(enumerate(ordering.parts))
    if at.backward:
        numbered.reverse()
    if at.key is not None:
        numbered = [(n, part) for n, part in numbered if (n <= at.key.part if at.backward else n >= at.key.part)]
    stretches = []
    for number, part in numbered:
        merged = _Stretch(filters, ordering, part, at, at.key if at.key and at.key.part == number else None).merged()
        if merged is not None:
            stretches.append((number, merged))
    return stretches


def _alone(number: int, one: Sql) -> tuple[str, list]:
    return f"SELECT t.*, {number} AS part FROM ({one.text}) t", one.values


def _one_after_the_other(stretches: list[tuple[int, Sql]], at: Page) -> tuple[str, list]:
    """A later stretch is read only if the earlier ones do not fill the page."""
    tables, before = [], []
    for number, one in stretches:
        enough = f" WHERE {' + '.join(f'(SELECT count(*) FROM p{n})' for n in before)} <= {at.limit}" if before else ""
        tables.append(f"p{number} AS MATERIALIZED (SELECT t.*, {number} AS part FROM ({one.text}) t{enough})")
        before.append(number)
    rows = " UNION ALL ".join(f"SELECT * FROM p{number}" for number in before)
    return f"WITH {', '.join(tables)} {rows}", [value for _, one in stretches for value in one.values]


def order(ordering: Ordering, at: Page) -> str:
    way = _direction(ordering, at)
    return f"t.part {'DESC' if at.backward else 'ASC'}, t.{ordering.column} {way}, t.id {way}"


def _direction(ordering: Ordering, at: Page) -> str:
    return "DESC" if ordering.descending != at.backward else "ASC"


def with_found(filters: Filters) -> str:
    """What a statement with these filters begins with: what their search finds is looked for once, however many branches ask."""
    return f"WITH found AS MATERIALIZED ({filters.found})\n" if filters.found else ""


class _Lead(NamedTuple):
    """A table that holds tasks by `column` and their creation, and the values that are asked for."""

    table: str
    column: str
    values: list[Sql]


def _lead(filters: Filters, ordering: Ordering) -> tuple[_Lead | None, Filters]:
    """What leads to the tasks in this order, if anything does, and what is to be looked at besides."""
    if ordering.column != "created_at":
        return None, filters
    if filters.watchers:
        people = [Sql("%s::bigint", [person]) for person in filters.watchers]
        return _Lead("tasks_watched", "user_id", people), replace(filters, watchers=[])
    if filters.labels:
        # Literals, since with another filter it depends on their number which of both is to be begun with.
        labels = [Sql(f"{conditions.literal(label)}::text", []) for label in filters.labels[0]]
        return _Lead("tasks_labelled", "label", labels), replace(filters, labels=filters.labels[1:])
    return None, filters


class _Stretch:
    """The rows of a page that lie in one part of the list."""

    def __init__(self, filters: Filters, ordering: Ordering, part: Part, at: Page, key: Position | None):
        self._ordering, self._part = ordering, part
        self._equal = dict(filters.equal)
        for column, values in part.only.items():
            known = self._equal.get(column, values)
            self._equal[column] = [value for value in values if value in known]
        self._way, self._limit, self._key = _direction(ordering, at), at.limit + 1, key
        self._lead, self._filters = _lead(filters, ordering)
        self._at = ("w.task_created_at", "w.task_id") if self._lead else (f"t.{ordering.column}", "t.id")

    def merged(self) -> Sql | None:
        """None where no row can be."""
        column = self._ordering.column
        if any(not values for values in self._equal.values()):
            return None
        if self._part.valued is False and any(condition.column == column for condition in self._filters.conditions):
            return None
        branches = self._of_lead(self._lead) if self._lead else self._of_values()
        if len(branches) == 1:
            return branches[0]
        union = " UNION ALL ".join(f"({branch.text})" for branch in branches)
        end = f"ORDER BY t.{column} {self._way}, t.id {self._way} LIMIT {self._limit}"
        return Sql(f"SELECT t.* FROM ({union}) t {end}", [value for branch in branches for value in branch.values])

    def leading(self) -> tuple[str, ...]:
        """The columns of the index that leads."""
        for columns in _INDEXES[self._ordering.column]:
            count = 1
            for name in columns:
                values = self._equal.get(name) or _VALUES.get(name, ())
                count *= 0 if name in _PARTIAL and None in values else len(values)
            if 0 < count <= _MOST_BRANCHES and (self._ordering.column != "created_at" or self._equal.keys() & set(columns)):
                return columns
        return ()

    def _of_lead(self, lead: _Lead) -> list[Sql]:
        """A branch for each value, of the tasks that have none before it."""
        others, branches = self._others(()), []
        for number, one in enumerate(lead.values):
            before, where = lead.values[:number], [f"w.{lead.column} = {one.text}"]
            if before:
                known = f"o.task_id = w.task_id AND o.{lead.column} IN ({', '.join(other.text for other in before)})"
                where.append(f"NOT EXISTS (SELECT FROM {lead.table} o WHERE {known})")
            where += [others.text] if others.text else []
            values = [value for own in (one, *before) for value in own.values]
            end = f"ORDER BY {self._at[0]} {self._way}, {self._at[1]} {self._way} LIMIT {self._limit}"
            text = f"SELECT t.* FROM {lead.table} w JOIN tasks_task t ON t.id = w.task_id WHERE {' AND '.join(where)} {end}"
            branches.append(Sql(text, values + others.values))
        return branches

    def _of_values(self) -> list[Sql]:
        """A branch for each combination of the values that lead."""
        leading = self.leading()
        others = self._others(leading)
        choices = [[(name, value) for value in self._equal.get(name) or _VALUES[name]] for name in leading]
        return [self._branch(chosen, others) for chosen in itertools.product(*choices)]

    def _others(self, leading: tuple[str, ...]) -> Sql:
        """The conditions that each branch has besides its own."""
        equal = {name: values for name, values in self._equal.items() if name not in leading}
        (moment, key), than = self._at, ">" if self._way == "ASC" else "<"
        asked = conditions.of(equal, self._filters, self._ordering.column, moment, is_led=self._lead is not None)
        texts, values = [asked.text] if asked.text else [], list(asked.values)
        if self._part.valued is not None:
            texts.append(f"{moment} IS {'NOT ' if self._part.valued else ''}NULL")
        if self._key is not None:
            valued = self._part.valued is not False
            texts.append(f"({moment}, {key}) {than} (%s, %s)" if valued else f"{key} {than} %s")
            values += [self._key.moment, self._key.id] if valued else [self._key.id]
        return Sql(" AND ".join(texts), values)

    def _branch(self, chosen: tuple, others: Sql) -> Sql:
        own = [conditions.equals(name, value) for name, value in chosen]
        where = " AND ".join(filter(None, [*(text for text, _ in own), others.text]))
        # PostgreSQL does not see that IS NULL fixes a column, as `=` does: the ORDER BY begins with it, so that the index serves.
        fixed = [f"t.{name} {self._way}" for name, value in chosen if value is None]
        by = ", ".join([*fixed, f"t.{self._ordering.column} {self._way}", f"t.id {self._way}"])
        # The limit is a literal: for a parameter PostgreSQL's generic plan assumes a tenth of the table.
        text = f"SELECT t.* FROM tasks_task t {'WHERE ' + where if where else ''} ORDER BY {by} LIMIT {self._limit}"
        return Sql(text, [*(value for _, its in own for value in its), *others.values])
