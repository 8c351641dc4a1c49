"""`make plans`: each list of the API at 1,000 and at 1,000,000 tasks: its plan, the rows and blocks it looks at, its time.

    python -m tests.benchmarks.million [--tasks 1000000] [--plans]

PostgreSQL makes the tasks in databases of the script's own, in the order of time, with the shares of values and the
ages of a team's tasks; both sizes span the same three years. It ends with status 1 where a plan reads the table, sorts more
than a page, or looks at over 1.2 times the rows.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.benchmarks import database

SMALL = 1_000
LIMIT = 20
MOST_RATIO = 1.2
PASSED_OVER = 25
MOST_TIMES = 8
_ROUNDS = 15
_PEOPLE = 8
_CHUNK = 50_000
# `n` of `of` tasks: the share of each value and the ages depend on n / of alone. Nine in ten of the older tasks are completed,
# half of the last tenth; each fifth is nobody's; forty have a rare label, and forty are subtasks of one task, whatever the size.
_FILL = """
INSERT INTO tasks_task (id, title, description, priority, status, category, labels, assignee_id, created_by_id, parent_id,
  due_at, created_at, updated_at, completed_at, version)
SELECT uuidv7(created - clock_timestamp()), 'Refund order ' || n, 'lorem ipsum', priority, status,
  CASE WHEN r5 < 0.8 THEN 'category-' || floor(r5 * 12.499)::int END,
  CASE WHEN n %% (%(of)s / 40) = 3 THEN '{rare,common}' WHEN r1 < 0.3 THEN '{common}' WHEN r1 < 0.33 THEN '{medium}' ELSE '{}' END
    ::varchar[],
  CASE WHEN r2 >= 0.2 THEN (%(people)s::bigint[])[1 + floor(r6 * %(count)s)::int] END,
  (%(people)s::bigint[])[1 + floor(r5 * %(count)s)::int],
  CASE WHEN n %% (%(of)s / 40) = 5 THEN %(parent)s::uuid END,
  CASE WHEN r1 < 0.7 THEN created + (1 + r2 * 30) * interval '1 day' END, created,
  created + age * interval '1 day', CASE WHEN status = 'completed' THEN created + age * interval '1 day' END, 1
FROM (
  SELECT n, r1, r2, r5, r6, r3 * least(20, (1 - n::float8 / %(of)s) * 1095) AS age,
    now() - (1 - n::float8 / %(of)s) * interval '1095 days' AS created,
    (ARRAY['low', 'medium', 'medium', 'high'])[1 + floor(r3 * 3.999)::int] AS priority,
    CASE WHEN r4 < (CASE WHEN n < %(of)s * 0.9 THEN 0.9 ELSE 0.5 END) THEN 'completed' WHEN r4 < 0.97 THEN 'pending'
      ELSE 'in_progress' END AS status
  FROM (SELECT n, random() AS r1, random() AS r2, random() AS r3, random() AS r4, random() AS r5, random() AS r6
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) n) drawn
) made
"""
ORDERED = ("created_at", "updated_at", "due_at", "completed_at", "priority")
_ORDERINGS = [f"{sign}{name}" for name in ORDERED for sign in ("-", "")]
# Whose cost does not depend on how many tasks there are.
FLAT = [
    "", *(f"ordering={ordering}" for ordering in _ORDERINGS),
    *(f"status=pending&ordering={ordering}" for ordering in _ORDERINGS if "completed" not in ordering),
    *(f"assignee=me&ordering={ordering}" for ordering in _ORDERINGS if "priority" not in ordering),
    "status=pending", "status=pending,in_progress", "priority=high", "priority=low,high", "status=pending&priority=high",
    "assignee=me", "assignee=none", "assignee=none,me", "assignee=me&status=pending,in_progress", "assignee=me&priority=high",
    "assignee=me&status=pending&ordering=due_at", "assignee=me&status=pending,in_progress&ordering=-updated_at",
    "assignee=me&ordering=-priority", "status=completed&ordering=-completed_at", "created_by=me", "created_by=me&status=completed",
    "parent={parent}", "parent={parent}&status=completed", "parent=none", "parent=none&status=pending", "category=category-3",
    "category=category-3&status=completed", "category=", "label=common", "label=rare", "label=common,rare", "label_all=rare,common",
    "label=common&status=completed", "label=rare&ordering=-updated_at", "created_after={old}", "created_before={old}",
    "created_after={old}&created_before={later}", "assignee=me&created_after={old}", "status=completed&created_before={later}",
    "updated_after={old}", "updated_before={later}", "status=completed&updated_after={old}", "assignee=me&updated_after={old}",
    "due_after={old}", "due_before={later}", "assignee=me&due_before={later}&ordering=due_at", "completed_after={old}",
    "completed_before={later}", "assignee=me&completed_after={old}", "overdue=true", "overdue=false",
    "overdue=true&ordering=due_at", "assignee=me&overdue=true&ordering=due_at", "fields=id,title", "expand=assignee",
    "assignee=me&status=pending&limit=5&expand=subtasks",
]  # fmt: skip
# Whose cost grows with what the filter matches: no index holds the filter before the ordering's column.
GROWING = [
    "label=medium", "category=category-3&ordering=due_at", "created_by=me&ordering=-updated_at",
    "due_before={later}&ordering=-created_at", "updated_after={old}&ordering=due_at",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.million")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--plans", action="store_true", help="the plan of each list too")
    options = parser.parse_args()
    with database.server() as (url, kind), database.fresh_database(url), _second_connection(url) as connections:
        teams = {}
        for size, one in zip((SMALL, options.tasks), connections, strict=True):
            began = time.monotonic()
            with _in_use(one):
                teams[size] = fill(size)
            print(f"{size:,} tasks made in {time.monotonic() - began:.0f} s on PostgreSQL ({kind})", flush=True)
        right = report(teams, connections, options.plans)
    sys.exit(0 if right else 1)


@contextmanager
def _second_connection(url: str):
    """Connections to two migrated databases: the present one, and a copy of it."""
    import psycopg
    from django.db import connection, connections

    name = connection.settings_dict["NAME"]
    connection.close()
    copy = f"{name}_small"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
        large = connections["default"]
        small = large.copy()
        small.settings_dict["NAME"] = copy
        yield small, large
        small.close()
        server.execute(f"DROP DATABASE {copy} WITH (FORCE)")


@contextmanager
def _in_use(wrapper):
    """It is Django's default connection."""
    from django.db import connections

    before, connections["default"] = connections["default"], wrapper
    yield
    connections["default"] = before


def report(teams: dict, connections: tuple, plans: bool) -> bool:
    """Prints both sizes side by side; False where a flat list is not flat."""
    print(f"{'list':64} {'rows':>4} {'looked at':>15} {'blocks':>13} {'ms':>13}  time")
    right, ratios = True, []
    for query in [*FLAT, *GROWING]:
        looks = [Look(query, team) for team in teams.values()]
        for number in range(_ROUNDS):  # in turn, so that what else the machine does meets both
            for one, wrapper in zip(looks, connections, strict=True):
                with _in_use(wrapper):
                    one.read(show=plans and number == 0)
        small, large = looks
        flat = query in FLAT
        wrong = large.wrong + ([] if large.looked_at <= most_looked_at(small) else ["looks at more rows"])
        ratio = large.milliseconds / small.milliseconds
        # Far beyond what noise does: a plan that is made for any value at all was another one than that which was looked at.
        wrong += ["takes much longer"] if ratio > MOST_TIMES else []
        right = right and not (flat and wrong)
        ratios += [ratio] if flat else []
        print(
            f"{query or 'all':64} {large.rows:4} {small.looked_at:7} {large.looked_at:7} {small.blocks:6} {large.blocks:6} "
            f"{small.milliseconds:6.2f} {large.milliseconds:6.2f}  {ratio:4.2f} {'' if flat else '(grows) '}{', '.join(wrong)}",
            flush=True,
        )
    print(f"of those that are to be flat, time at the larger size: median {statistics.median(ratios):.2f}, most {max(ratios):.2f}")
    return right


def most_looked_at(small: "Look") -> float:
    """By a list at any size. Where one row in a few matches, PostgreSQL takes passing over the others for cheaper than an index
    that leads to each: so many for a row that is shown are no matter of size."""
    return max(small.looked_at * MOST_RATIO, PASSED_OVER * (LIMIT + 1))


@dataclass(frozen=True, slots=True)
class Team:
    """Who asks, whose tasks they are, and a task with subtasks."""

    user_id: int
    parent: str

    def query(self, text: str) -> str:
        return text.format(parent=self.parent, old=_ago(700), later=_ago(400))


def _ago(days: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def fill(tasks: int) -> Team:
    """Makes tasks in the present database without their events: nobody but the script looks at it."""
    from django.contrib.auth.models import User
    from django.db import connection

    made = User.objects.bulk_create(User(username=f"planner-{number}") for number in range(_PEOPLE))
    people = [user.pk for user in made]
    with connection.cursor() as cursor, _bare(cursor):
        cursor.execute("SELECT setseed(0.5)")
        cursor.execute(
            "INSERT INTO tasks_task (title, created_at, updated_at, version) "
            "VALUES ('parent', now() - interval '1096 days', now() - interval '1096 days', 1) RETURNING id::text"
        )
        (parent,) = cursor.fetchone()
        values = {"of": tasks, "people": people, "count": len(people), "parent": parent}
        for first in range(1, tasks + 1, _CHUNK):
            cursor.execute(_FILL, {**values, "first": first, "last": min(first + _CHUNK - 1, tasks)})
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks_task, auth_user")
    return Team(people[0], parent)


@contextmanager
def _bare(cursor):
    """Without triggers and, but for the primary key, without indexes, which are made anew at the end: several times as fast."""
    cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'tasks_task' AND indexname NOT LIKE '%_pkey'")
    indexes = cursor.fetchall()
    cursor.execute("ALTER TABLE tasks_task DISABLE TRIGGER USER")
    cursor.execute(f"DROP INDEX {', '.join(name for name, _ in indexes)}")
    yield
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # in a transaction: keys of other tables, which wait for its end
    cursor.execute("SET maintenance_work_mem = '256MB'")
    for _, definition in indexes:
        cursor.execute(definition)
    cursor.execute("ALTER TABLE tasks_task ENABLE TRIGGER USER")


class Look:
    """What the second page of a list takes, or the first where that is all."""

    def __init__(self, query: str, team: Team):
        from django.http import QueryDict

        from tasks.api import listing

        text = team.query(query)
        self._asked = listing.read(QueryDict(text if "limit" in text else f"{text}&limit={LIMIT}"), team.user_id)
        self._times: list[float] = []
        self.rows = self.looked_at = self.blocks = 0
        self.wrong: list[str] = []

    @property
    def milliseconds(self) -> float:
        return statistics.median(self._times)

    def read(self, show: bool = False) -> None:
        """In the present database; its plan the first time."""
        from tasks.api import queries

        if not self._times:
            self._explain(show)
        began = time.perf_counter()
        queries.page(self._asked)
        self._times.append((time.perf_counter() - began) * 1000)

    def _explain(self, show: bool) -> None:
        from django.db import connection

        from tasks.api import queries
        from tasks.api.pagination import Page

        first = queries.page(self._asked)
        if first.older is not None:
            self._asked = replace(self._asked, page=Page(self._asked.page.limit, first.older))
        statements = []

        def note(execute, sql, parameters, many, execution):
            statements.append((sql, parameters))
            return execute(sql, parameters, many, execution)

        with connection.execute_wrapper(note):
            self.rows = len(queries.page(self._asked).texts)
        ((sql, parameters),) = statements
        plan = explain(sql, parameters, show)
        self.looked_at, self.wrong = examine(plan, most_sorted=(self._asked.page.limit + 1) * 60)
        self.blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


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
    """How many rows of the table the plan looks at, and what no list may do."""
    looked_at, wrong = 0, []
    loops = node["Actual Loops"]
    if node.get("Relation Name") == "tasks_task":
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        looked_at += round((node["Actual Rows"] + removed) * loops)
        if node["Node Type"] == "Seq Scan" and loops:
            wrong.append("reads the table")
    for child in node.get("Plans", ()):
        if node["Node Type"] == "Sort" and child["Actual Rows"] > most_sorted:
            wrong.append(f"sorts {child['Actual Rows']:.0f} rows")
        its_rows, its_wrong = examine(child, most_sorted)
        looked_at, wrong = looked_at + its_rows, wrong + its_wrong
    return looked_at, wrong


if __name__ == "__main__":
    main()
