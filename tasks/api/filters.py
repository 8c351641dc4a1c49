"""The filters of the task list: what may be asked, and what it means for a task."""

import csv
import difflib
from dataclasses import dataclass, field
from typing import NamedTuple

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidQuery
from tasks.api.validation import NoSuchTime, Wrong, due_at, task_id
from tasks.models import CATEGORY_LENGTH, LABEL_LENGTH, Priority, Status

MOST_VALUES = 50
_MOST_ERRORS = 100
TIMES = ("due", "created", "updated", "completed")
_MOMENTS = tuple(f"{time}_{side}" for time in TIMES for side in ("before", "after"))
# What has one value; the others take several.
ONCE = frozenset({"q", "limit", "cursor", "ordering", "overdue", *_MOMENTS})
PARAMETERS = (
    "status", "priority", "assignee", "created_by", "label", "label_all", "parent", "category", "watching", "overdue", *_MOMENTS,
)  # fmt: skip
_OPEN = [Status.PENDING.value, Status.IN_PROGRESS.value]


class Condition(NamedTuple):
    """An SQL condition on the task `t`. `column`: that it holds only for tasks which have a value there, if it says so."""

    sql: str
    values: tuple
    column: str = ""


@dataclass(slots=True)
class Filters:
    """A task matches if each column of `equal` has one of its values (None: it has none), every condition holds, it bears one
    of each list of `labels`, and one of `watchers`, if there are any, watches it. `found`: the statement of a search, to whose
    rows a condition refers (`rows.with_found`)."""

    equal: dict[str, list] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    watchers: list[int] = field(default_factory=list)
    found: str = ""

    def restrict(self, column: str, values: list) -> None:
        """To these values, and to those that it is restricted to already."""
        known = self.equal.get(column)
        self.equal[column] = values if known is None else [value for value in known if value in values]


def words(query, name: str) -> list[str]:
    """The values of a parameter: separated by commas, one that holds a comma in double quotes (RFC 4180), or the parameter
    repeated; without repetition. Spaces beside a comma do not count. Raises InvalidQuery for quotes that do not match, for
    a line break outside of them, and for more than MOST_VALUES values, repetitions among them."""
    try:
        # With a comma after it, since a reader would take a line break at the end for the end of the row.
        lines = [next(csv.reader([f"{given},"], skipinitialspace=True, strict=True))[:-1] for given in query.getlist(name)]
    except csv.Error:
        detail = _("{name}: expected values separated by commas, one that holds a comma or a line break in double quotes.")
        raise InvalidQuery([{"parameter": name, "detail": format_lazy(detail, name=name)}]) from None
    values = [word.strip(" ") for line in lines for word in line]
    if len(values) > MOST_VALUES:
        detail = format_lazy(_("{name}: expected at most {most} values."), name=name, most=MOST_VALUES)
        raise InvalidQuery([{"parameter": name, "detail": detail}])
    return list(dict.fromkeys(values))


def refuse_unknown(query, known: tuple[str, ...]) -> None:
    """Raises InvalidQuery for what `unknown` finds."""
    errors = unknown(query, known)
    if errors:
        raise InvalidQuery(errors)


def unknown(query, known: tuple[str, ...]) -> list[dict]:
    """What is wrong with the names of parameters: one that is not known, or one given twice that has one value."""
    errors = []
    for name in query:
        shown = name[:100].encode("utf-8", "replace").decode()
        if name not in known:
            errors.append({"parameter": shown, "detail": _no_such_parameter(shown, known)})
        elif name in ONCE and len(query.getlist(name)) > 1:
            errors.append(given_twice(shown))
    return errors[:_MOST_ERRORS]


def given_twice(name: str) -> dict:
    return {"parameter": name, "detail": format_lazy(_("{name}: given more than once."), name=name)}


def _nearest(name: str, known) -> str | None:
    """The known name that it resembles, if one does."""
    return next(iter(difflib.get_close_matches(name.lower(), known, 1)), None)


def _no_such_parameter(name: str, known):
    nearest, names = _nearest(name, known), ", ".join(known)
    if nearest:
        told = _("{name}: no such parameter, did you mean {nearest}?; there are {names}.")
        return format_lazy(told, name=name, nearest=nearest, names=names)
    return format_lazy(_("{name}: no such parameter; there are {names}."), name=name, names=names)


def wrong_value(name: str, value: str, expected, known=()) -> dict:
    """`expected`: a lazy text, or one that the catalogues have."""
    shown, nearest = repr(value[:100]), _nearest(value[:100], known)
    expected = _(expected) if isinstance(expected, str) else expected
    if nearest:
        told = _("{name}: {value} is not valid, did you mean {nearest}?; expected {expected}.")
        detail = format_lazy(told, name=name, value=shown, nearest=nearest, expected=expected)
    else:
        detail = format_lazy(_("{name}: {value} is not valid; expected {expected}."), name=name, value=shown, expected=expected)
    return {"parameter": name, "detail": detail}


def one_of(values):
    return format_lazy(_("one of {values}"), values=", ".join(values))


def of_tasks(query, user_id: int, errors: list[dict]) -> Filters:
    """What a query string asks for; what is wrong is added to `errors`."""
    filters = Filters()
    for name, (column, rule, known) in _COLUMNS.items():
        if name in query:
            filters.restrict(column, _values(query, name, lambda value, rule=rule: rule(value, user_id), known, errors))
    if "label" in query:
        filters.labels.append(_values(query, "label", _label, (), errors))
    if "label_all" in query:
        filters.labels += [[label] for label in _values(query, "label_all", _label, (), errors)]
    if "watching" in query:
        filters.watchers = _values(query, "watching", lambda value: _watcher(value, user_id), ("me",), errors)
    for name in _MOMENTS:
        if name in query:
            column, _, side = name.partition("_")
            moment = _moment(name, query[name], errors)
            filters.conditions.append(Condition(f"t.{column}_at {'<' if side == 'before' else '>='} %s", (moment,), f"{column}_at"))
    if "overdue" in query:
        _overdue(query["overdue"], filters, errors)
    return filters


def _overdue(written: str, filters: Filters, errors: list[dict]) -> None:
    if written == "true":
        filters.restrict("status", _OPEN)
        filters.conditions.append(Condition("t.due_at < now()", (), "due_at"))
    elif written == "false":
        filters.conditions.append(Condition(f"(t.due_at IS NULL OR t.due_at >= now() OR t.status = '{Status.COMPLETED}')", ()))
    else:
        errors.append(wrong_value("overdue", written, _("true or false")))


def _values(query, name: str, rule, known, errors: list[dict]) -> list:
    try:
        written = words(query, name)
    except InvalidQuery as wrong:
        errors += wrong.errors
        return []
    values = []
    for value in written:
        try:
            values.append(rule(value))
        except Wrong as wrong:
            errors.append(wrong_value(name, value, wrong.args[0], known))
    return list(dict.fromkeys(values))


def _moment(name: str, written: str, errors: list[dict]):
    try:
        return due_at(written)
    except Wrong as wrong:
        more = wrong.args[0] if isinstance(wrong, NoSuchTime) else None
        if len(written) == 10 and written.isascii() and written.count("-") == 2:
            more = _("a date alone names no moment, since a day begins at another one in each zone")
        errors.append(wrong_value(name, written, format_lazy("{}; {}", A_MOMENT, more) if more else A_MOMENT))
        return None


A_MOMENT = _("a date and time with its zone as 2026-01-15T10:30:00Z, its + written as %2B")


# A rule takes a value as it is written and returns what the column has then; it raises Wrong with what was expected.
def _one_of(values: list[str]):
    def rule(value: str, user_id: int) -> str:
        if value not in values:
            raise Wrong(one_of(values))
        return value

    return rule


def _person(value: str, user_id: int) -> int | None:
    if value == "me":
        return user_id
    if value == "none":
        return None
    if value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    raise Wrong("the id of a person, me or none")


def _watcher(value: str, user_id: int) -> int:
    if value == "none":
        raise Wrong("the id of a person, or me")
    return _person(value, user_id)


def _parent(value: str, user_id: int):
    key = task_id(value)
    if key is None and value != "none":
        raise Wrong("the id of a task, or none")
    return key


def _category(value: str, user_id: int) -> str | None:
    """Empty text means none, as it does in a body."""
    if len(value) > CATEGORY_LENGTH or "\x00" in value:
        told = _("a category of at most {most} characters, or nothing for tasks without one")
        raise Wrong(format_lazy(told, most=CATEGORY_LENGTH))
    return value or None


def _label(value: str) -> str:
    if not 1 <= len(value) <= LABEL_LENGTH or "\x00" in value:
        expected = _("a label of 1 to {most} characters")
        raise Wrong(format_lazy(expected, most=LABEL_LENGTH))
    return value


# The column, the rule, and words that a wrong value may have been meant for.
_COLUMNS = {
    "assignee": ("assignee_id", _person, ("me", "none")),
    "status": ("status", _one_of(Status.values), Status.values),
    "priority": ("priority", _one_of(Priority.values), Priority.values),
    "created_by": ("created_by_id", _person, ("me", "none")),
    "parent": ("parent_id", _parent, ("none",)),
    "category": ("category", _category, ()),
}
