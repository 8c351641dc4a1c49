"""The filters of the task list: what may be asked, and the SQL that answers it from an index."""

import csv
from dataclasses import dataclass, field
from typing import NamedTuple

from taskpulse.errors import InvalidQuery
from tasks.models import LABEL_LENGTH, Priority, Status

_MOST_VALUES = 50


class Alternative(NamedTuple):
    """An SQL condition on `t`. PostgreSQL does not see that `IS NULL` fixes a column, as `=` does: `null_column` names it,
    so that the ORDER BY can begin with it and the index serve."""

    sql: str
    values: list
    null_column: str = ""


@dataclass(slots=True)
class Condition:
    """A row matches any of the alternatives; `ordered` if an index gives the rows of each in the order of the list."""

    alternatives: list[Alternative] = field(default_factory=list)
    ordered: bool = True


def words(query, name: str) -> list[str]:
    """The values of a parameter: separated by commas, one that holds a comma in double quotes (RFC 4180), or the parameter
    repeated; without repetition. Raises InvalidQuery for quotes that do not match."""
    try:
        lines = [next(csv.reader([given], skipinitialspace=True, strict=True), None) or [""] for given in query.getlist(name)]
    except csv.Error:
        raise InvalidQuery(
            [
                {
                    "parameter": name,
                    "detail": f"{name}: expected values separated by commas, one that holds a comma in double quotes.",
                }
            ]
        ) from None
    values = [word.strip() for line in lines for word in line]
    return list(dict.fromkeys(values))


def refuse_unknown(query, known: tuple[str, ...]) -> None:
    """Raises InvalidQuery for a parameter that the list does not have, or one given twice that has one value."""
    errors = []
    for name in query:
        shown = name[:100].encode("utf-8", "replace").decode()
        if name not in known:
            errors.append({"parameter": shown, "detail": f"{shown}: no such parameter; there are {', '.join(known)}."})
        elif name in {"limit", "cursor"} and len(query.getlist(name)) > 1:
            errors.append({"parameter": shown, "detail": f"{shown}: given more than once."})
    if errors:
        raise InvalidQuery(errors[:100])


def wrong_value(name: str, value: str, expected: str) -> dict:
    return {"parameter": name, "detail": f"{name}: {value[:100]!r} is not valid; expected {expected}."}


TASK_PARAMETERS = ("priority", "status", "assignee", "label", "limit", "cursor")


def of_tasks(query, user_id: int) -> list[Condition]:
    """The conditions that a query string asks for, the most selective index first. Raises InvalidQuery."""
    if not query:
        return []
    refuse_unknown(query, TASK_PARAMETERS)
    conditions, errors = [], []
    for name, rule in (("assignee", _assignee), ("status", _status), ("priority", _priority), ("label", _label)):
        if name not in query:
            continue
        values = words(query, name)
        if len(values) > _MOST_VALUES:
            errors.append({"parameter": name, "detail": f"{name}: expected at most {_MOST_VALUES} values."})
            continue
        condition = Condition(ordered=name != "label")
        for value in values:
            found = rule(value, user_id)
            if isinstance(found, str):
                errors.append(wrong_value(name, value, found))
            else:
                condition.alternatives.append(found)
        conditions.append(condition)
    if errors:
        raise InvalidQuery(errors)
    return conditions


def _assignee(value: str, user_id: int):
    if value == "none":
        return Alternative("t.assignee_id IS NULL", [], "t.assignee_id")
    if value == "me":
        return Alternative("t.assignee_id = %s::bigint", [user_id])
    if value.isascii() and value.isdigit() and len(value) <= 18:
        # A literal type: the index is used whatever the number's size.
        return Alternative("t.assignee_id = %s::bigint", [int(value)])
    return "the id of a person, me or none"


def _status(value: str, user_id: int):
    return Alternative("t.status = %s", [value]) if value in Status.values else "one of " + ", ".join(Status.values)


def _priority(value: str, user_id: int):
    return Alternative("t.priority = %s", [value]) if value in Priority.values else "one of " + ", ".join(Priority.values)


def _label(value: str, user_id: int):
    if not 1 <= len(value) <= LABEL_LENGTH or "\x00" in value:
        return f"a label of 1 to {LABEL_LENGTH} characters"
    return Alternative("t.labels @> ARRAY[%s]::varchar[]", [value])
