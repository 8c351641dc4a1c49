"""The plan of each list that is to cost the same at any size, at a size that a test can afford (`make plans`: a million)."""

from types import SimpleNamespace

import pytest
from django.db import connection
from django.http import QueryDict

from tasks.api import listing, queries, rows, streams
from tasks.api.ordering import ORDERINGS
from tests.benchmarks.million import compared
from tests.benchmarks.plans import LIMIT, Look, explain, most_passed_over
from tests.benchmarks.task_fill import Team, fill
from tests.benchmarks.task_lists import EMPTY, FLAT, GROWING

pytestmark = pytest.mark.django_db
_TASKS = 8_000


@pytest.fixture(scope="module")
def team(django_db_setup, django_db_blocker) -> Team:
    """In a transaction that is undone at the end."""
    from django.db import transaction

    with django_db_blocker.unblock(), transaction.atomic():
        yield fill(_TASKS)
        transaction.set_rollback(True)


@pytest.mark.parametrize("query", FLAT, ids=lambda query: query or "all")
def test_a_page_is_read_by_an_index_and_looks_at_little_more_than_it_shows(team, query):
    """As at a million tasks, where reading all of a table that fits in memory would not be the cheapest, nor all that match."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
    look = Look(query, team)
    look.read()
    assert look.wrong == []
    assert look.rows <= LIMIT
    assert look.rows or query in EMPTY or query.startswith("count=")
    assert look.looked_at <= most_passed_over(query)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [("label=rare", 0), ("category=x&ordering=due_at", 6), ("assignee=me&status=pending", 2), ("created_after={old}", 1),
     ("created_after={old}&ordering=due_at", 6), ("watching=me,{seldom}&created_after={old}&label=rare", 5),
     ("watching=me&ordering=updated_at", 3)],
)  # fmt: skip
def test_the_planner_knows_each_value_that_no_index_leads_to(team, query, parameters):
    """A prepared statement is soon planned for any value at all: then a rare one would be looked for among all tasks. What is
    left are the values of the columns that lead: here each status, in two parts."""
    asked = listing.read(QueryDict(team.query(query)), team.user_id)
    text, values = rows.select(asked.filters, ordering=asked.ordering, at=asked.page)
    assert len(values) == text.count("%s") == parameters


@pytest.mark.parametrize("query", ["q=refund", "q=refund&label=rare", "q=%22refund order%22 -7&ordering=created_at"])
def test_the_planner_knows_each_word_that_is_looked_for(team, query):
    """As above: of a word that every task holds all would be sorted, where the newest that hold it are soon found."""
    asked = listing.read(QueryDict(query), team.user_id)
    text, values = queries.select(asked)
    text = rows.with_found(asked.filters) + text
    assert (values, text.count("%s")) == ([], 0)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE looked_for AS {text.replace('%%', '%')}")
        cursor.execute("EXPLAIN EXECUTE looked_for")
        plan = "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute("DEALLOCATE looked_for")
    assert "'refund'" in plan, plan
    assert "task_phrase" not in plan, plan


def test_the_planner_takes_an_equal_time_for_what_equal_ids_have_told(team):
    """Else it expects next to nothing that is in both tables, and reads and sorts all of them instead of a page."""
    asked = listing.read(QueryDict(f"watching=me&label=common&limit={LIMIT}"), team.user_id)
    limited = explain(*rows.select(asked.filters, asked.ordering, asked.page))
    while limited["Node Type"] != "Limit":
        (limited,) = limited["Plans"]
    assert limited["Plan Rows"] == LIMIT + 1


_WHOLE = [
    *(f"ordering={name}" for name in ORDERINGS), "assignee=me&ordering=-created_at", "assignee=me&ordering=due_at",
    "status=pending,completed&ordering=-due_at", "status=pending&ordering=updated_at", "status=completed&ordering=priority",
]  # fmt: skip


@pytest.mark.parametrize("form", [streams.JSON_LINES, streams.CSV], ids=["lines", "csv"])
@pytest.mark.parametrize("query", _WHOLE)
def test_the_whole_list_is_given_as_it_is_read(team, query, form):
    """Nothing of it is kept until all of it is there: then it would be on disk, as far as it is larger than `work_mem`."""
    asked = listing.read(QueryDict(team.query(query)), team.user_id, whole=True)
    with connection.cursor() as cursor:
        streams.limit_and_order(cursor, asked, 60)
        cursor.execute("SET LOCAL work_mem = '64kB'")
        for selected, parameters in queries.parts(asked):
            copy = streams.statement(asked, form, selected, asked.page.limit)
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {copy[6 : copy.rindex(') TO STDOUT')]}", parameters)
            plan = "\n".join(row[0] for row in cursor.fetchall())
            assert "temp written" not in plan, plan
            assert "Sort Method" not in plan, plan


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", True), ("status=pending&ordering=due_at&due_before={old}", True),
     ("assignee=me&status=pending&ordering=-updated_at", True), ("label=rare", False),
     ("category=category-3&ordering=due_at", False), ("due_before={old}&ordering=created_at", False),
     ("q=refund&ordering=due_at", False), ("watching=me", False)],
)  # fmt: skip
def test_where_a_filter_passes_over_tasks_the_planner_may_sort(team, query, expected):
    asked = listing.read(QueryDict(team.query(query)), team.user_id, whole=True)
    with connection.cursor() as cursor:
        streams.limit_and_order(cursor, asked, 1.5)
        cursor.execute("SELECT current_setting('enable_sort'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("off" if expected else "on", "1500ms")
        cursor.execute("SET LOCAL statement_timeout = 0; SET LOCAL enable_sort = on")


def _looked_at(rows: int):
    return SimpleNamespace(looked_at=rows, blocks=rows, milliseconds=1.0, wrong=[])


@pytest.mark.parametrize(
    ("name", "rows", "kind", "wrong"),
    [("status=pending", (21, 25), "flat", []), ("status=pending", (1_000, 1_200), "flat", []),
     ("status=pending", (21, 525), "bounded", []), ("status=pending", (21, 1_051), "bounded", ["looks at more rows"]),
     ("count=exact", (1_000, 1_000_000), "grows", [])],
)  # fmt: skip
def test_a_list_that_looks_at_more_is_flat_bounded_or_known_to_grow(name, rows, kind, wrong):
    found = compared(name, *map(_looked_at, rows))
    assert (found["is"], found["wrong"]) == (kind, wrong)
    assert (kind == "grows") == (name in GROWING)
    assert not set(FLAT) & set(GROWING)
