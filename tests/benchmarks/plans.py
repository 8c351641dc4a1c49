"""What reading a list takes: the plan of its statement, the rows and blocks that it looks at, its time."""

import json
import statistics
import time
from collections.abc import Callable

from tests.benchmarks.task_fill import AROUND_TABLES, Team

LIMIT = 20
# Where one row in a few matches, PostgreSQL takes passing over the others for cheaper than an index that leads to each.
PASSED_OVER = 50
_MOST_SORTED = (LIMIT + 1) * 60
# As tasks.api.search has it.
MATCHES = 1_000
# Tables that grow with the tasks; those of the log have names of their partitions.
_GROWING = ("tasks_task", "tasks_search", *AROUND_TABLES, "task_audit_log")


def most_passed_over(name: str) -> int:
    """Rows that a list may look at where its filter is not in its index. A search ranks the newest thousand that match, each by
    its words and, where a filter is asked for beside it, by its task."""
    return (LIMIT + 1) * PASSED_OVER + (2 * MATCHES if name.startswith("q=") else 0)


def reader(name: str, team: Team) -> Callable:
    """What reads a page of a list, given the key that it begins after, None for the first. A list is named by its query string,
    by the end of its path under a task or under /api, or by the count that is asked for."""
    from django.http import QueryDict

    from audit.api import search
    from tasks.api import around_queries, counts, label_queries, listing
    from tasks.api.pagination import Page

    text, task = team.query(name), team.parent
    if text.startswith("count="):
        how, _, text = text.partition("&")
        asked = listing.read(QueryDict(text), team.user_id)
        count = counts.exact if how == "count=exact" else counts.estimated
        return lambda _: count(asked.filters)
    others = {
        "/comments": lambda key: around_queries.comments(task, Page(LIMIT, key)),
        "/watchers": lambda key: around_queries.watchers(task, Page(LIMIT, key)),
        "/labels": lambda key: label_queries.page(Page(LIMIT, key)),
        "/history": lambda key: search.page(search.Search(tasks=[task]), Page(LIMIT, key)),
    }
    if text in others:
        return others[text]
    if text.startswith("/subtasks"):
        text = f"parent={task}&{text.partition('?')[2]}".removesuffix("&")
    return _tasks_reader(text if "limit" in text else f"{text}&limit={LIMIT}", team.user_id)


def _tasks_reader(text: str, user_id: int) -> Callable:
    from django.http import QueryDict

    from tasks.api import listing, pagination, queries

    first = listing.read(QueryDict(text), user_id)

    def read(key):
        if key is None:
            return queries.page(first)
        return queries.page(listing.read(QueryDict(f"{text}&cursor={pagination.encode(first.keys, key, False)}"), user_id))

    return read


class Look:
    """What a page of a list takes: the first or the second, whichever looks at more."""

    def __init__(self, name: str, team: Team):
        self._read, self._key = reader(name, team), None
        self._times: list[float] = []
        self.rows = self.looked_at = self.blocks = 0
        self.wrong: list[str] = []

    @property
    def milliseconds(self) -> float:
        return statistics.median(self._times)

    def read(self, show: bool = False) -> None:
        """In the present database; its plans the first time."""
        if not self._times:
            self._choose(show)
        began = time.perf_counter()
        self._read(self._key)
        self._times.append((time.perf_counter() - began) * 1000)

    def _choose(self, show: bool) -> None:
        found = self._look_at(None, show)
        older = getattr(found, "older", None)  # a count has no pages
        if older is not None:
            self._look_at(older, show)

    def _look_at(self, key, show: bool):
        """What is found; kept is the page that looks at more. An estimate is a plan itself and reads nothing."""
        from django.db import connection

        statements = []

        def note(execute, sql, parameters, many, execution):
            statements.append((sql, parameters))
            return execute(sql, parameters, many, execution)

        with connection.execute_wrapper(note):
            found = self._read(key)
        plans = [explain(sql, parameters, show) for sql, parameters in statements if not sql.startswith("EXPLAIN")]
        seen = [examine(plan, _MOST_SORTED) for plan in plans]
        looked_at = sum(rows for rows, _ in seen)
        if key is None or looked_at > self.looked_at:
            self._key, self.looked_at, self.rows = key, looked_at, len(getattr(found, "texts", ()))
            self.wrong = [wrong for _, its_wrong in seen for wrong in its_wrong]
            self.blocks = sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)
        return found


def explain(sql: str, parameters, show: bool = False) -> dict:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}", parameters)
        (found,) = cursor.fetchone()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    if show:
        print(json.dumps(plan, indent=1))
    return plan


def examine(node: dict, most_sorted: int) -> tuple[int, list[str]]:
    """How many rows the plan looks at of tables that grow with the tasks, and what no list may do."""
    looked_at, wrong = 0, []
    loops = node["Actual Loops"]
    if node.get("Relation Name", "").startswith(_GROWING):
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        # What an index gives by a bitmap is looked at, whether its row is or not.
        by_bitmap = sum(
            child["Actual Rows"] * child["Actual Loops"] for child in node.get("Plans", ()) if "Bitmap" in child["Node Type"]
        )
        looked_at += round(max((node["Actual Rows"] + removed) * loops, by_bitmap))
        if node["Node Type"] == "Seq Scan" and loops:
            wrong.append(f"reads all of {node['Relation Name']}")
    for child in node.get("Plans", ()):
        if node["Node Type"] == "Sort" and child["Actual Rows"] > most_sorted:
            wrong.append(f"sorts {child['Actual Rows']:.0f} rows")
        its_rows, its_wrong = examine(child, most_sorted)
        looked_at, wrong = looked_at + its_rows, wrong + its_wrong
    return looked_at, wrong
