"""The plan of each list that is to cost the same at any size, at a size that a test can afford (`make plans`: a million)."""

import pytest
from django.db import connection
from django.http import QueryDict

from tasks.api import listing, queries, rows
from tests.benchmarks.million import FLAT, LIMIT, PASSED_OVER, Look, Team, fill

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
    """As at a million tasks, where reading all of a table that fits in memory would not be the cheapest."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    look = Look(query, team)
    look.read()
    assert look.wrong == []
    assert 0 < look.rows <= LIMIT
    assert look.looked_at <= PASSED_OVER * (LIMIT + 1)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [("label=rare", 0), ("category=x&ordering=due_at", 6), ("assignee=me&status=pending", 2), ("created_after={old}", 1),
     ("created_after={old}&ordering=due_at", 6)],
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
