"""What the filters of a list mean as SQL for the task `t`."""

import re
from typing import NamedTuple

from psycopg.sql import Literal

from tasks.api.filters import Filters

_CASTS = {"assignee_id": "::bigint", "created_by_id": "::bigint"}
# PostgreSQL begins with these rows where they are few, and else looks each task of the list up among them.
_WATCHED = "EXISTS (SELECT FROM tasks_watched w WHERE w.task_id = t.id AND w.user_id = ANY (%s::bigint[]))"


class Sql(NamedTuple):
    text: str
    values: list


def matching(filters: Filters) -> str:
    """A WHERE clause for the task `t`, without parameters; empty where every task matches."""
    conditions = of(filters.equal, filters)
    return f"WHERE {conditions.text}" if conditions.text else ""


def of(equal: dict[str, list], filters: Filters, leading: str = "", moment: str = "", is_led: bool = False) -> Sql:
    """Values are literals but for those of the column that leads, whose name in SQL is `moment`: how many tasks have them decides
    on the plan, and of a parameter PostgreSQL's generic plan does not know it (it would look through all for a rare label).
    `is_led`: rows `w` of labels or watchers lead to the tasks."""
    texts, values = [], []
    for name, allowed in equal.items():
        alternatives = [_literally(*equals(name, value)) for value in allowed]
        texts.append("(" + (" OR ".join(alternatives) or "false") + ")")
    for condition in filters.conditions:
        if condition.column and condition.column == leading:
            texts.append(condition.sql.replace(f"t.{leading}", moment))
            values += condition.values
        else:
            texts.append(_literally(condition.sql, condition.values))
    texts += [_labelled(labels, is_led) for labels in filters.labels]
    if filters.watchers:
        texts.append(_literally(_WATCHED, [filters.watchers]))
    return Sql(" AND ".join(texts), values)


def _labelled(labels: list[str], is_led: bool) -> str:
    """That the task bears one of them. Rows that lead are in the order of tasks' creation too, so that PostgreSQL may go through
    both side by side, or begin with the fewer, and read no task that has not both."""
    task = "(l.task_created_at, l.task_id) = (w.task_created_at, w.task_id)" if is_led else "l.task_id = t.id"
    is_one = f"= {literal(labels[0])}::text" if len(labels) == 1 else f"= ANY ({literal(labels)}::text[])"
    return f"EXISTS (SELECT FROM tasks_labelled l WHERE {task} AND l.label {is_one})"


def literal(value) -> str:
    return Literal(value).as_string(None).replace("%", "%%")


_MARK = re.compile("%[s%]")


def _literally(text: str, values) -> str:
    """A condition with literals instead of parameters, its percent signs doubled as in any statement with parameters."""
    literals = iter([literal(value) for value in values])
    return _MARK.sub(lambda mark: next(literals) if mark[0] == "%s" else mark[0], text)


def equals(column: str, value) -> tuple[str, list]:
    # A literal type: the index is used whatever the number's size.
    return (f"t.{column} IS NULL", []) if value is None else (f"t.{column} = %s{_CASTS.get(column, '')}", [value])
