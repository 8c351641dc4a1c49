"""The task list as a whole: JSON Lines and CSV, and what a client sees of one that was broken off."""

import csv
import http.client
import io
import json
import time
from datetime import UTC, datetime

import psycopg
import pytest
from django.db import connection
from django.http import QueryDict

from tasks.api import listing, long_answers, streams
from tasks.models import Task
from tests.api_client import api, person, problem, statements
from tests.web_role import WebRole

JSON_LINES = "application/x-ndjson"
NASTY = [
    "plain",
    'a "quoted" one',
    "back\\slash \\n \\\\",
    "line\nbreak\r\nand\ttab",
    "\x01\x1f\x7f",
    "é 東京 🙂 \u2028",
    "\\.",
    "NULL",
    ",",
]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'quoted", "＝1", "＋1", "－1", "＠x", "''twice"]


@pytest.fixture
def caller(db):
    caller, other = api(), person(first_name="Eva")
    parent = Task.objects.create(title="a parent", created_by=caller.user)
    Task.objects.bulk_create(
        Task(
            title=text, description=text * 2, category=text[:64] if number % 2 else None, summary=text if number % 3 else None,
            labels=[text, "x"] if number % 4 else [], assignee=[None, other, caller.user][number % 3],
            priority=["low", "medium", "high"][number % 3], status=["pending", "completed"][number % 2],
            due_at=datetime(2026, 1, 15, 10, 30, 0, 500, UTC) if number % 2 else None, parent=parent if number % 5 else None,
        )
        for number, text in enumerate(NASTY + FORMULAS)
    )  # fmt: skip
    return caller


def lines(response) -> list[dict]:
    assert response.status_code == 200, response.content
    body = b"".join(response.streaming_content)
    assert body.endswith(b"\n") or not body
    return [json.loads(line) for line in body.split(b"\n")[:-1]]


def table(response) -> list[dict]:
    assert response.status_code == 200, response.content
    body = b"".join(response.streaming_content).decode()
    header, *rows = csv.reader(io.StringIO(body, newline=""), strict=True)
    assert body.count("\r\n") >= len(rows) + 1
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    "query",
    [
        "", "status=pending", "status=completed&ordering=-completed_at", "ordering=due_at", "ordering=-priority",
        "assignee=me,none&priority=low,high", "label=x", "fields=title,labels", "expand=assignee", "limit=3",
        "ordering=due_at&limit=9", "ordering=-priority&limit=13", "ordering=completed_at&status=pending&limit=2",
        "label=nobody has it", "ordering=completed_at&status=pending&completed_after=2020-01-01T00:00:00Z",
        "created_after=2020-01-01T00:00:00Z&ordering=created_at&limit=7",
    ],
)  # fmt: skip
def test_each_line_is_a_task_as_the_list_shows_it(caller, query):
    page = f"/api/tasks?{query}" if "limit" in query else f"/api/tasks?{query}&limit=500"
    assert lines(caller.get(f"/api/tasks?{query}", Accept=JSON_LINES)) == caller.get(page).json()


def test_a_whole_list_is_one_statement(caller, monkeypatch):
    with statements() as found:
        response = caller.get("/api/tasks", Accept=JSON_LINES)
        assert len(lines(response)) == len(NASTY) + len(FORMULAS) + 1
    # Who asks, and how long the COPY may take; the COPY itself is the driver's.
    assert len(found) == 2
    assert "statement_timeout" in found[1]
    assert response["Content-Disposition"] == 'attachment; filename="tasks.jsonl"'
    assert response["Cache-Control"] == "no-store"


def test_the_parts_of_a_list_are_of_one_moment(committed_db, monkeypatch):
    """What changes while the first part is on its way: a task of the second part is not shown twice, nor missed."""
    monkeypatch.setattr(streams, "_BLOCK_BYTES", 1)
    due = datetime(2026, 1, 15, tzinfo=UTC)
    tasks = [Task.objects.create(title=str(number), due_at=due if number < 3 else None) for number in range(6)]
    asked = listing.read(QueryDict("ordering=due_at"), 1, whole=True)
    blocks = streams._blocks(asked, streams.JSON_LINES)
    shown = [next(blocks)]
    with psycopg.connect(committed_db) as other:
        other.execute("UPDATE tasks_task SET due_at = now() WHERE id = %s", [tasks[4].pk])
        other.execute("UPDATE tasks_task SET due_at = NULL WHERE id = %s", [tasks[0].pk])
        other.execute("DELETE FROM tasks_task WHERE id = %s", [tasks[5].pk])
    shown += blocks
    assert sorted(json.loads(line)["title"] for line in shown) == ["0", "1", "2", "3", "4", "5"]
    titles = [json.loads(line)["title"] for line in streams._blocks(asked, streams.JSON_LINES)]
    assert sorted(titles) == ["0", "1", "2", "3", "4"]


def test_blocks_are_bounded_and_hold_whole_lines(caller, monkeypatch):
    monkeypatch.setattr(streams, "_BLOCK_BYTES", 1000)
    blocks = list(caller.get("/api/tasks", Accept=JSON_LINES).streaming_content)
    assert len(blocks) > 5
    assert all(block.endswith(b"}\n") and len(block) < 3000 for block in blocks)


def written(text: str) -> str:
    """What was written, of a text in a cell."""
    return text[1:] if text.startswith("'") else text


def test_csv_holds_what_was_written_and_no_formula(caller):
    rows = table(caller.get("/api/tasks", Accept="text/csv"))
    tasks = caller.get("/api/tasks?limit=500").json()
    assert list(rows[0]) == [
        "id", "title", "status", "priority", "category", "labels", "assignee_id", "assignee_name", "due_at", "parent",
        "description", "summary", "created_by_id", "created_by_name", "created_at", "updated_at", "completed_at", "version",
    ]  # fmt: skip
    assert len(rows) == len(tasks)
    for row, task in zip(rows, tasks, strict=True):
        for name in ("title", "description", "category", "summary"):
            assert written(row[name]) == (task[name] or "")
            assert not row[name].startswith(tuple("=+-@\t\r\n＝＋－＠")), row[name]
        for name in ("id", "status", "priority", "due_at", "parent", "created_at", "updated_at", "completed_at", "version"):
            assert row[name] == str(task[name] or "")
        for name in ("assignee", "created_by"):
            person = task[name] or {"id": "", "name": ""}
            assert (row[f"{name}_id"], row[f"{name}_name"]) == (person["id"], person["name"])
        labels = next(csv.reader(io.StringIO(written(row["labels"]), newline=""), strict=True), [])
        assert labels == task["labels"]


def test_csv_shows_the_fields_that_are_named(caller):
    response = caller.get("/api/tasks?fields=title,assignee&status=pending&limit=2", Accept="text/csv")
    assert response["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert [list(row) for row in table(response)] == [["title", "assignee_id", "assignee_name"]] * 2
    assert b"".join(caller.get("/api/tasks?label=nobody&fields=id", Accept="text/csv").streaming_content) == b"id\r\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/csv", "text/csv; charset=utf-8; header=present"),
        ("TEXT/CSV", "text/csv; charset=utf-8; header=present"),
        ("text/*", "text/csv; charset=utf-8; header=present"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/jsonl", "application/jsonl"),
        ("application/jsonl, application/json;q=0.5", "application/jsonl"),
        ("application/jsonl;q=0.5, application/json", "application/json"),
        ("application/json, text/csv", "application/json"),
        ("application/json;q=0, */*", "text/csv; charset=utf-8; header=present"),
        ("text/html, */*", "application/json"),
        ("application/*", "application/json"),
        ("", "application/json"),
        ("text/html", None),
        ("text/csv;q=0", None),
    ],
)
def test_the_accept_header_chooses_the_form(caller, accept, expected):
    response = caller.get("/api/tasks", Accept=accept)
    if expected is None:
        problem(response, 406)
    else:
        assert (response.status_code, response["Content-Type"]) == (200, expected)
        response.close()


def test_other_resources_have_no_such_form(caller):
    problem(caller.get(f"/api/tasks/{Task.objects.first().pk}", Accept="text/csv"), 406)
    problem(caller.send("POST", "/api/tasks", {"title": "x"}, Accept="text/csv"), 406)


@pytest.mark.parametrize(
    ("query", "accept", "parameter"),
    [
        ("cursor=AAAA", JSON_LINES, "cursor"), ("limit=0", JSON_LINES, "limit"), ("limit=x", "text/csv", "limit"),
        ("limit=" + "9" * 20, JSON_LINES, "limit"), ("status=done", "text/csv", "status"), ("page=1", JSON_LINES, "page"),
        ("expand=assignee", "text/csv", "expand"), ("expand=subtasks", JSON_LINES, "limit"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_it_begins(caller, query, accept, parameter):
    assert problem(caller.get(f"/api/tasks?{query}", Accept=accept), 400)["errors"][0]["parameter"] == parameter


def test_a_client_of_http_1_0_could_not_see_the_end(caller):
    response = caller.client.get("/api/tasks", headers={**caller.headers, "Accept": "text/csv"}, SERVER_PROTOCOL="HTTP/1.0")
    assert "HTTP/1.1" in problem(response, 406)["detail"]


def test_a_head_reads_nothing(caller):
    with statements() as found:
        response = caller.send("HEAD", "/api/tasks", Accept="text/csv")
    assert (response.status_code, response["Content-Type"], len(found)) == (200, streams.CSV.content_type, 1)


def test_only_a_few_at_once(caller):
    for _ in range(long_answers.MOST):
        assert long_answers.places.acquire(blocking=False)
    assert problem(caller.get("/api/tasks", Accept="text/csv"), 429)
    for _ in range(long_answers.MOST):
        long_answers.places.release()
    for _ in range(2 * long_answers.MOST):
        caller.get("/api/tasks", Accept="text/csv").close()


def test_a_fault_at_the_beginning_is_a_problem(caller, monkeypatch):
    monkeypatch.setattr(streams, "statement", lambda *_: "COPY (SELECT 1 / 0) TO STDOUT")
    problem(caller.get("/api/tasks", Accept=JSON_LINES), 500)
    assert long_answers.places.acquire(blocking=False)
    long_answers.places.release()


def test_a_fault_on_the_way_breaks_the_answer_off(committed_db, tmp_path):
    caller = api()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks_task (title, description) SELECT 'long', repeat('0123456789', 2000) FROM generate_series(1, 500)"
        )
    web = WebRole(tmp_path, WEB_CONCURRENCY="1").start()
    try:
        headers = {**caller.headers, "Accept": JSON_LINES}
        for fault in (True, False):
            client = http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)
            client.request("GET", "/api/tasks", headers=headers)
            answer = client.getresponse()
            assert (answer.status, answer.getheader("Transfer-Encoding")) == (200, "chunked")
            body = answer.read(100_000)
            if fault:
                # The client does not read: PostgreSQL waits, for nobody has taken the list into memory.
                assert end_copy()
                with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                    answer.read()
            else:
                body += answer.read()
                assert len([json.loads(line) for line in body.splitlines()]) == 500
            client.close()
    finally:
        web.stop()


def end_copy() -> bool:
    """Ends the session of the COPY that goes on, if there is one."""
    end = time.monotonic() + 10
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
    with connection.cursor() as cursor:
        while time.monotonic() < end:
            cursor.execute(ending + "AND query LIKE 'COPY (SELECT%%' AND wait_event = 'ClientWrite'")
            if cursor.fetchone():
                return True
            time.sleep(0.05)
    return False
