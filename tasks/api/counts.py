"""How many tasks a list has, for who asks by `Prefer: count=exact` or `count=estimated`: one more statement, never without it."""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are literals)

import json

from django.db import OperationalError, connection
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import Problem
from tasks.api import conditions, prefer, rows
from tasks.api.filters import Filters

_WAYS = ("exact", "estimated")
_TIMED_OUT = "57014"  # query_canceled (PostgreSQL, appendix A): by the statement timeout of the web role


def headers(request, filters: Filters) -> dict[str, str]:
    """Of the answer to a list: X-Total-Count and Preference-Applied where a count was asked for, and that it depends on Prefer
    in any case (RFC 9110 §12.5.5). Another value of `count` is ignored, as RFC 7240 §2 has it. Raises Problem where counting
    takes too long."""
    preferred = request.META.get("HTTP_PREFER")
    how = preferred and prefer.value(preferred, "count")
    if how not in _WAYS:
        return {"Vary": "Prefer"}
    number = exact(filters) if how == "exact" else estimated(filters)
    return {"Vary": "Prefer", "X-Total-Count": str(number), "Preference-Applied": f"count={how}"}


def exact(filters: Filters) -> int:
    """Raises Problem 503 where the web role's statement timeout ends it."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"{rows.with_found(filters)}SELECT count(*) FROM tasks_task t {conditions.matching(filters)}", [])
            return cursor.fetchone()[0]
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) != _TIMED_OUT:
            raise
        detail = _("Counting so many tasks takes too long. Ask by more filters, or for `Prefer: count=estimated`.")
        raise Problem(503, detail, type="database-timeout") from error


def estimated(filters: Filters) -> int:
    """What PostgreSQL's planner expects, from its statistics of the table: its cost does not depend on the number."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (FORMAT JSON) {rows.with_found(filters)}SELECT FROM tasks_task t {conditions.matching(filters)}", []
        )
        (plan,) = cursor.fetchone()
    return int((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]["Plan Rows"])
