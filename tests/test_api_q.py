"""`q` in the task list: order, pages, filters, and what a search costs."""

from urllib.parse import quote

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.api import search
from tasks.models import Task
from tests.api_client import api, links, problem, statements, walk
from tests.test_api_lists import titles

pytestmark = pytest.mark.django_db


@pytest.fixture
def caller():
    caller = api()
    for title, fields in {
        "in the description": {"description": "an invoice came"},
        "in the summary": {"summary": "an invoice came"},
        "in a label": {"labels": ["invoice"]},
        "the invoice": {},
        "something else": {"status": "completed", "completed_at": None},
        "old invoice": {"priority": "high"},
        "Überfällige Rechnung": {"description": "café", "assignee": caller.user},
    }.items():
        Task.objects.create(title=title, created_by=caller.user, **fields)
    return caller


def found(caller, q: str, more: str = "") -> list[str]:
    return titles(caller.get(f"/api/tasks?q={quote(q)}{more}"))


def test_the_best_match_is_first_and_of_equals_the_newest(caller):
    assert found(caller, "invoice") == ["old invoice", "the invoice", "in a label", "in the summary", "in the description"]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("uberf", ["Überfällige Rechnung"]), ("RECHNUNG cafe", ["Überfällige Rechnung"]), ("rechn ", []),
        ("rechn* ", ["Überfällige Rechnung"]), ('"the invoice"', ["the invoice"]),
        ("invoice -came -old", ["the invoice", "in a label"]), ("else or old ", ["old invoice", "something else"]),
        ("", []), ("-invoice", []), ("!", []), ("%", []), ("\\", []), ("nobody", []),
    ],
)  # fmt: skip
def test_what_is_typed_finds_what_is_meant(caller, q, expected):
    assert found(caller, q) == expected


@pytest.mark.parametrize("q", ["7e3a9f", "7E3A9F ", "7e3a", "7e3", "7e", '"commit 7e3a9f"'])
def test_what_begins_as_a_number_with_an_exponent_is_found(caller, q):
    Task.objects.create(title="Revert commit 7e3a9f")
    assert found(caller, q) == ["Revert commit 7e3a9f"]


def joined(pages) -> list[str]:
    return [task["title"] for _, page in pages for task in page]


@pytest.mark.parametrize("more", ["", "&ordering=-created_at", "&ordering=due_at", "&ordering=-priority", "&ordering=completed_at"])
def test_pages_lead_on_and_back(caller, more):
    whole = found(caller, "i", f"{more}&limit=100")
    assert len(whole) == 5
    for limit in (1, 2, 3):
        assert joined(walk(caller, f"/api/tasks?q=i{more}&limit={limit}")) == whole
        last = walk(caller, f"/api/tasks?q=i{more}&limit={limit}")[-1][0]
        assert joined(reversed(walk(caller, last, "prev"))) == whole


def test_filters_and_orderings_hold_too(caller):
    assert found(caller, "invoice", "&priority=high") == ["old invoice"]
    assert found(caller, "invoice", "&label=invoice&status=pending") == ["in a label"]
    assert found(caller, "cafe", "&assignee=me") == ["Überfällige Rechnung"]
    assert found(caller, "cafe", "&assignee=none") == []
    assert found(caller, "invoice", "&ordering=created_at")[0] == "in the description"
    assert found(caller, "invoice", "&ordering=-priority")[0] == "old invoice"
    response = caller.get("/api/tasks?q=invoice&fields=title", Accept="application/jsonl")
    assert b"".join(response.streaming_content).count(b"\n") == 5


@pytest.mark.parametrize("ordering", ["", "&ordering=due_at"])
@pytest.mark.parametrize("written", ["%", "%s", "100 %% %(x)s", "'\\"])
def test_filters_of_any_text_hold_in_any_order(caller, written, ordering):
    """Their values stand in the statement, in which a percent sign has a meaning."""
    task = Task.objects.create(title="half an invoice", category=written, labels=[written])
    same = f"category={quote(written)}&label={quote(written)}&label_all={quote(written)}"
    assert found(caller, "invoice", f"&{same}{ordering}") == [task.title]
    assert titles(caller.get(f"/api/tasks?{same}{ordering}")) == [task.title]


def test_only_the_newest_matches_are_found_whatever_the_order(caller, monkeypatch):
    monkeypatch.setattr(search, "MATCHES", 2)
    newest = ["old invoice", "the invoice"]
    assert found(caller, "invoice") == newest
    assert found(caller, "invoice", "&ordering=created_at") == newest[::-1]
    assert found(caller, "invoice", "&status=pending&priority=medium") == ["the invoice", "in a label"]
    assert found(caller, '"the invoice"') == ["the invoice"]
    Task.objects.create(title="invoice of the")
    monkeypatch.setattr(search, "LOOKED_AT", 1)
    assert found(caller, '"the invoice"') == []


@pytest.mark.parametrize("more", ["", "&ordering=created_at", "&ordering=due_at"])
def test_what_matches_since_the_first_page_puts_nothing_out_of_the_next(caller, monkeypatch, more):
    monkeypatch.setattr(search, "MATCHES", 5)
    monkeypatch.setattr(search, "LOOKED_AT", 5)
    whole = found(caller, "invoice", more)
    first = caller.get(f"/api/tasks?q=invoice&limit=2{more}")
    for _ in range(3):
        Task.objects.create(title="a new invoice")
    task = Task.objects.get(title="something else")
    task.title = "some invoice"
    task.save()
    rest = walk(caller, links(first)["next"])
    shown = titles(first) + [title for title in joined(rest) if title != task.title]
    assert shown == whole
    assert found(caller, "invoice", more).count("a new invoice") == 3


def test_a_cursor_is_of_a_search(caller):
    cursor = links(caller.get("/api/tasks?q=invoice&limit=1"))["next"].partition("cursor=")[2]
    assert problem(caller.get(f"/api/tasks?cursor={cursor}"), 400)["errors"][0]["parameter"] == "cursor"
    other = links(caller.get("/api/tasks?limit=1"))["next"].partition("cursor=")[2]
    assert problem(caller.get(f"/api/tasks?q=invoice&cursor={other}"), 400)["errors"][0]["parameter"] == "cursor"
    assert problem(caller.get("/api/tasks?q=a&q=b"), 400)["errors"][0]["parameter"] == "q"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_nothing_that_is_typed_is_an_error(caller, typed):
    assert caller.get(f"/api/tasks?q={quote(typed)}").status_code == 200


def test_a_search_is_one_statement_that_reads_the_index_of_words(caller):
    with connection.cursor() as database:
        database.execute(
            "INSERT INTO tasks_search (task_id, words) "
            "SELECT uuidv7(), to_tsvector('simple', 'many more ' || n) FROM generate_series(1, 3000) n"
        )
        database.execute("ANALYZE tasks_search")
    for query in ("q=invoice", "q=invoice&ordering=due_at", "q=%22an%20invoice%22", "q=inv*%20-old"):
        with statements() as run:
            assert titles(caller.get(f"/api/tasks?{query}"))
        assert len(run) == 2, run
        with connection.cursor() as database:
            database.execute("SET LOCAL enable_seqscan = off")
            database.execute("EXPLAIN " + run[1])
            plan = "\n".join(row[0] for row in database.fetchall())
        assert "Bitmap Index Scan on tasks_search_words" in plan, plan
