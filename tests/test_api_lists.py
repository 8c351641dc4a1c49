"""Lists: filters, keyset pages, and what each costs in statements."""

import re
from urllib.parse import quote

import pytest
from django.db import connection

from tasks.api import filters, listing, members, search
from tasks.api.ordering import ORDERINGS
from tasks.models import Task
from tests.api_client import api, links, person, problem, statements, walk
from tests.running_up import ROOT

pytestmark = pytest.mark.django_db


def titles(response) -> list[str]:
    assert response.status_code == 200, response.content
    return [task["title"] for task in response.json()]


@pytest.fixture
def caller():
    caller, other = api(), person()
    people = {"me": caller.user, "other": other, None: None}
    wanted = [
        ("a", "low", "pending", "me", ["x", "y"]),
        ("b", "medium", "pending", "other", ["y"]),
        ("c", "high", "in_progress", None, ["é/ &+"]),
        ("d", "high", "completed", "me", []),
        ("e", "low", "completed", None, ["x"]),
    ]
    Task.objects.bulk_create(
        Task(title=title, priority=priority, status=status, assignee=people[who], labels=labels, created_by=caller.user)
        for title, priority, status, who, labels in wanted
    )
    caller.other = other
    return caller


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "edcba"),
        ("priority=high", "dc"),
        ("priority=high,low", "edca"),
        ("priority=low&priority=high", "edca"),
        ("status=pending", "ba"),
        ("status=pending,in_progress,completed", "edcba"),
        ("status=pending,pending", "ba"),
        ("assignee=me", "da"),
        ("assignee=none", "ec"),
        ("assignee=none,me", "edca"),
        ("assignee={other}", "b"),
        ("assignee={other},me", "dba"),
        ("assignee=999999999999999999", ""),
        ("label=x", "ea"),
        ("label=x,y", "eba"),
        ("label=nobody has it", ""),
        (f"label={quote('é/ &+')}", "c"),
        ("label=x&status=completed", "e"),
        ("assignee=me,none&status=completed,pending&priority=high,low", "eda"),
        ("assignee=me&status=pending&priority=low&label=y", "a"),
    ],
)
def test_filters(caller, query, expected):
    query = query.replace("{other}", str(caller.other.pk))
    assert "".join(titles(caller.get(f"/api/tasks?{query}"))) == expected
    assert "".join(titles(caller.get(f"/api/tasks/?{query}&limit=500"))) == expected
    assert "".join(task["title"] for _, page in walk(caller, f"/api/tasks?{query}&limit=1") for task in page) == expected


@pytest.mark.parametrize(
    ("query", "named", "valid"),
    [
        ("priority=urgent", "priority", "low, medium, high"),
        ("priority=low,urgent", "priority", "'urgent'"),
        ("priority=", "priority", "low"),
        ("status=done", "status", "pending, in_progress, completed"),
        ("status=Pending", "status", "pending"),
        ("assignee=ana", "assignee", "me or none"),
        ("assignee=-1", "assignee", "me or none"),
        ("assignee=9999999999999999999999", "assignee", "me or none"),
        ("assignee=%D9%A1", "assignee", "me or none"),
        ("label=", "label", "1 to 64"),
        ("label=a%00b", "label", "1 to 64"),
        (f"label={'x' * 65}", "label", "1 to 64"),
        ("label=" + ",".join(map(str, range(51))), "label", "at most 50"),
        ("expand=" + ",".join(["labels"] * 51), "expand", "at most 50"),
        ("limit=0", "limit", "1 to 500"),
        ("limit=501", "limit", "1 to 500"),
        ("limit=x", "limit", "1 to 500"),
        ("limit=%D9%A1", "limit", "1 to 500"),
        ("limit=1&limit=2", "limit", "more than once"),
        ("cursor=", "cursor", "Link"),
        ("cursor=AAAA", "cursor", "Link"),
        ("cursor=" + "A" * 23, "cursor", "Link"),
        ("cursor=" + "%C3%A9" * 23, "cursor", "Link"),
        ("page=2", "page", "status, priority, assignee"),
        ("Status=pending", "Status", "status"),
        ("format=api", "format", "limit"),
        ("stauts=pending", "stauts", "did you mean status?"),
        ("status=pendign", "status", "did you mean pending?"),
        ("assignee=mee", "assignee", "did you mean me?"),
        ("created_by=ana", "created_by", "me or none"),
        ("ordering=due", "ordering", "did you mean due_at?"),
        ("ordering=title", "ordering", "-created_at, created_at"),
        ("ordering=due_at&ordering=id", "ordering", "more than once"),
        ("parent=1", "parent", "the id of a task, or none"),
        (f"category={'x' * 65}", "category", "at most 64"),
        ("label_all=", "label_all", "1 to 64"),
        ("overdue=yes", "overdue", "true or false"),
        ("due_before=2026-01-15", "due_before", "a date alone names no moment"),
        ("created_after=2026-01-15T10:30:00", "created_after", "with its zone"),
        ("updated_after=2026-02-30T00:00:00Z", "updated_after", "there is no such time"),
        ("completed_before=now", "completed_before", "with its zone"),
        ("%FF%00=1", "\ufffd", "limit"),
    ],
)
def test_what_is_not_known_is_named_with_what_is(caller, query, named, valid):
    document = problem(caller.get(f"/api/tasks?{query}"), 400)
    assert any(named in error["parameter"] and valid in error["detail"] for error in document["errors"]), document
    assert valid in document["detail"]


def test_every_wrong_value_is_listed(caller):
    query = "status=x,pending,y&priority=z&due_before=x&overdue=x&ordering=x&limit=0&fields=x&expand=x&x=1"
    errors = problem(caller.get(f"/api/tasks?{query}"), 400)["errors"]
    assert [error["parameter"] for error in errors] == [
        "x", "status", "status", "priority", "due_before", "overdue", "ordering", "limit", "fields", "expand"
    ]  # fmt: skip


def test_pages_lead_on_and_back(caller):
    first = caller.get("/api/tasks?limit=2&status=pending,in_progress,completed")
    assert titles(first) == ["e", "d"]
    assert set(links(first)) == {"next"}
    second = caller.get(links(first)["next"])
    assert titles(second) == ["c", "b"]
    third = caller.get(links(second)["next"])
    assert titles(third) == ["a"]
    assert set(links(third)) == {"prev"}
    back = caller.get(links(third)["prev"])
    assert titles(back) == ["c", "b"]
    assert set(links(back)) == {"next", "prev"}
    start = caller.get(links(back)["prev"])
    assert titles(start) == ["e", "d"]
    assert set(links(start)) == {"next"}
    assert "status=pending%2Cin_progress%2Ccompleted" in links(start)["next"]


def test_an_exact_page_has_no_next(caller):
    assert links(caller.get("/api/tasks?limit=5")) == {}


def test_rows_that_come_and_go_shift_no_page(caller):
    first = caller.get("/api/tasks?limit=2")
    caller.create(title="new")
    Task.objects.filter(title="d").delete()  # the row that the cursor names
    assert titles(caller.get(links(first)["next"])) == ["c", "b"]


@pytest.mark.parametrize("rows", [5, 500])
def test_each_request_costs_the_same_for_few_and_many_rows(rows):
    caller, other = api("member"), person()
    parent = caller.create()
    Task.objects.bulk_create(
        Task(title=str(n), assignee=[other, None][n % 2], created_by=other, parent_id=parent["id"], labels=["a"])
        for n in range(rows)
    )
    one = f"/api/tasks/{parent['id']}"
    tag = caller.get(one)["ETag"]
    assert caller.get(one, If_None_Match=tag).status_code == 304
    # Authentication is the first statement of each.
    costs = {}
    for name, send in {
        "list": lambda: caller.get("/api/tasks?limit=500"),
        "filtered": lambda: caller.get("/api/tasks?limit=500&assignee=me,none&status=pending,completed&label=a,b"),
        "read": lambda: caller.get(one),
        "not modified": lambda: caller.get(one, If_None_Match=tag),
        "create": lambda: caller.post({"title": "x", "labels": ["a"]}),
        "create for me": lambda: caller.post({"title": "x", "assignee": caller.user.pk}),
        "create for another": lambda: caller.post({"title": "x", "assignee": other.pk, "parent": parent["id"]}),
        "update": lambda: caller.patch(one, {"status": "completed", "title": "y"}),
        "update of nothing": lambda: caller.patch(one, {"title": "y"}),
        "assign": lambda: caller.patch(one, {"assignee": other.pk}),
        "history": lambda: caller.get(f"{one}/history"),
        "wrong": lambda: caller.post({}),
    }.items():
        with statements() as found:
            assert send().status_code < 500
        costs[name] = len(found)
    assert costs == {
        "list": 2, "filtered": 2, "read": 2, "not modified": 2, "create": 3, "create for me": 3, "create for another": 4,
        "update": 4, "update of nothing": 3, "assign": 5, "wrong": 1,
        "history": 4,  # none yet: is it archived, and is there such a task?
    }  # fmt: skip
    with statements() as found:
        assert caller.send("DELETE", one).status_code == 204
    assert len(found) <= 12, found
    # The subtasks went along; the two tasks without a parent stay.
    assert Task.objects.count() == 2


@pytest.mark.parametrize(
    ("query", "branches"),
    [("", 1), ("status=pending", 3), ("status=pending,in_progress", 6), ("priority=low,high", 6), ("assignee=me", 3),
     ("assignee=none", 3), ("assignee=none,me", 6), ("assignee=me&status=pending", 1), ("ordering=updated_at", 3)],
)  # fmt: skip
def test_a_page_is_read_from_an_index_in_its_order(caller, query, branches):
    """No scan of what does not match, no sort of what does: each branch stops at the limit."""
    with connection.cursor() as database:
        database.execute(
            "INSERT INTO tasks_task (id, title, description, priority, status, labels, assignee_id) "
            "SELECT uuidv7(), 'many', '', 'medium', 'completed', '{}', %s FROM generate_series(1, 2000)",
            [caller.other.pk],
        )
        # Without what the tests before left in table and indexes, which decides on the plan of so small a table.
        database.execute("SET CONSTRAINTS ALL IMMEDIATE; CLUSTER tasks_task USING tasks_task_pkey; ANALYZE tasks_task")
    ordered = query if "ordering" in query else "ordering=-created_at"
    cursor = links(caller.get(f"/api/tasks?limit=1&{ordered}"))["next"].partition("cursor=")[2]
    with statements() as found:
        assert caller.get(f"/api/tasks?limit=1&cursor={cursor}&{query}").status_code == 200
    with connection.cursor() as database:
        database.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        database.execute("EXPLAIN " + found[1])
        plan = [row[0].strip() for row in database.fetchall()]
    scans = [number for number, line in enumerate(plan) if "on tasks_task" in line]
    assert len(scans) == branches
    for number in scans:
        assert "Index Scan" in plan[number], plan
        assert not plan[number + 2].startswith("Filter"), plan
        assert plan[number - 1].removeprefix("->  ").startswith("Limit"), plan


def test_a_label_that_holds_a_comma_is_found_in_quotes():
    program = api()
    found = program.create(labels=["needs info, please"])["id"]
    other = program.create(labels=["needs info"])["id"]
    ids = lambda value: [task["id"] for task in program.get(f"/api/tasks?label={quote(value)}").json()]  # noqa: E731
    assert ids('"needs info, please"') == [found]
    assert ids('"needs info, please",needs info') == [other, found]
    assert problem(program.get('/api/tasks?label="needs'), 400)["errors"][0]["parameter"] == "label"
    assert problem(program.get("/api/tasks?label="), 400)["errors"][0]["parameter"] == "label"


@pytest.mark.parametrize("character", ["\t", "\x1e", "\x85", "\xa0", "\u3000"])
def test_only_spaces_beside_a_comma_do_not_count(character):
    program = api()
    found = program.create(labels=[f"{character}x", character])["id"]
    program.create(labels=["x"])
    for written in (f"{character}x", f" {character}x , nobody has it", character):
        assert [task["id"] for task in program.get(f"/api/tasks?label={quote(written)}").json()] == [found], repr(written)


def test_a_label_that_holds_a_line_break_is_found_in_quotes_alone():
    program = api()
    found = program.create(labels=["a\nb", "c\n"])["id"]
    assert [task["id"] for task in program.get("/api/tasks?label=%22a%0Ab%22").json()] == [found]
    for written in ("a%0Ab", "c%0A", "%0A", "c%0D%0A"):
        assert "line break in double quotes" in problem(program.get(f"/api/tasks?label={written}"), 400)["detail"]


_DESCRIBED = (ROOT / "docs" / "lists.md").read_text()


def _first_column(heading: str) -> set[str]:
    """The names in the first column of the table below a heading of docs/lists.md."""
    text = _DESCRIBED.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")][1:]
    return {name for row in rows for name in re.findall("`([a-z_]+)`", row)}


def test_every_parameter_is_described():
    assert _first_column("Filters") == {"q", *filters.PARAMETERS}
    assert _first_column("What is shown") == {*members.EXPANDED}
    assert [name for name in listing.PARAMETERS if f"`{name}" not in _DESCRIBED] == []
    assert [name for name in ORDERINGS if f"`{name.lstrip('-')}`" not in _DESCRIBED] == []
    for number in (search.MATCHES, search.LOOKED_AT, members.SUBTASKS, members.MOST_WITH_SUBTASKS):
        assert f" {number:,} " in _DESCRIBED, number
