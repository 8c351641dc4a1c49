"""The search of the audit log: by each filter alone and together, page by page, at a bounded cost."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import bisection
from audit.api import search
from audit.models import Entry
from tasks.events import uuid7
from tests.api_client import api, problem, statements
from tests.benchmarks.plans import examine, explain
from tests.test_api_lists import links

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = [uuid7() for _ in range(4)]
LATE = timedelta(minutes=2)


def write(*entries: dict) -> None:
    """Entries as they stand in the log after `occurred` and `recorded` seconds; recorded 0.1 s after they occurred by default."""
    seq = Entry.objects.count()
    for entry in entries:
        seq += 1
        occurred = START + timedelta(seconds=entry.get("occurred", seq))
        recorded = START + timedelta(seconds=entry["recorded"]) if "recorded" in entry else occurred + timedelta(seconds=0.1)
        changes = {name: {"from": None, "to": "x"} for name in entry.get("changed", ["title"])}
        task = entry.get("task", 0)
        Entry.objects.create(
            seq=seq, event_id=uuid7(), event_type=entry.get("type", "task.updated"), subject_type="task",
            subject_id=str(TASKS[task]), version=seq, task_id=TASKS[task], actor_id=entry.get("actor", "7"), actor_name="ana",
            actor_type="user", request_id=entry.get("request_id"), event_data={"data": {"changes": changes, "task": {}}},
            occurred_at=occurred, processed_at=recorded, topic="task-events", partition=0, offset=seq, digest=b"", leaf_hash=b"",
        )  # fmt: skip


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def walk(caller, query: dict) -> tuple[list[int], str]:
    """All that a search finds, by its `next` links, and the last page's path."""
    path, found = "/api/audit?" + urlencode(query), []
    for _ in range(200):
        response = caller.get(path)
        assert response.status_code == 200, response.content
        found += [entry["seq"] for entry in response.json()]
        last, path = path, links(response).get("next")
        if path is None:
            return found, last
    raise AssertionError("the links lead round in a circle")


def walk_back(caller, path: str) -> list[int]:
    found = []
    for _ in range(200):
        response = caller.get(path)
        found = [entry["seq"] for entry in response.json()] + found
        path = links(response).get("prev")
        if path is None:
            return found
    raise AssertionError("the links lead round in a circle")


@pytest.fixture
def auditor():
    return api("auditor")


def test_each_filter_finds_its_own_and_all_together(auditor):
    write(
        {"type": "task.created", "changed": ["title", "status"], "request_id": "r-1"},
        {"task": 1, "actor": "system:seed_demo"},
        {"changed": ["status"], "request_id": "r-2"},
        {"type": "task.deleted", "changed": [], "actor": "8"},
    )

    def seqs(**query):
        return walk(auditor, query)[0]

    event = Entry.objects.get(seq=2).event_id
    assert seqs(event=f"{event},{Entry.objects.get(seq=4).event_id}") == [4, 2]
    assert seqs(task=TASKS[0]) == [4, 3, 1]
    assert seqs(task=f"{TASKS[0]},{TASKS[1]}", actor="7") == [3, 1]
    assert seqs(actor="system:seed_demo,8") == [4, 2]
    assert seqs(since=at(2)) == [4, 3, 2]
    assert seqs(until=at(2)) == [1]
    assert seqs(since=at(2), until=at(4)) == [3, 2]
    assert seqs(task=TASKS[0], type="task.created,task.deleted") == [4, 1]
    assert seqs(since=at(0), request_id="r-1,r-2") == [3, 1]
    assert seqs(task=TASKS[0], changed="status") == [3, 1]
    assert seqs(task=TASKS[0], changed="priority,status") == [3, 1]
    assert seqs(event=event, type="task.created") == []
    assert seqs(task=TASKS[0], actor="7", type="task.updated", request_id="r-2", changed="status", since=at(3), until=at(4)) == [3]
    assert seqs(since=at(100)) == []
    assert seqs(since=at(0), type="audit.redacted,audit.dead_letter.discarded") == []


def test_an_actor_is_known_by_name_too(auditor):
    name, other = auditor.user.username, api("member").user
    write({"actor": str(auditor.user.pk)}, {"actor": str(other.pk)}, {"actor": name})
    assert walk(auditor, {"actor": name})[0] == [3, 1]  # an actor of that very id as well
    assert walk(auditor, {"actor": f"{name},{other.username}"})[0] == [3, 2, 1]
    assert walk(auditor, {"actor": "me"})[0] == [1]
    assert walk(auditor, {"actor": "nobody"})[0] == []


@pytest.mark.parametrize("filter", ["type=task.created", "request_id=r", "changed=status"])
def test_what_no_index_bears_needs_a_narrower_search(auditor, filter):
    name = filter.partition("=")[0]
    for more in ("", "&actor=7", f"&until={at(1).replace('+', '%2B')}"):
        document = problem(auditor.get(f"/api/audit?{filter}{more}"), 400)
        assert document["errors"] == [
            {"parameter": name, "detail": f"{name}: needs a narrower search; add task, or since (and until) for a time span."}
        ]


@pytest.mark.parametrize(
    ("query", "said"),
    [("since=yesterday", "since: 'yesterday'"), ("until=2026-01-01", "until: '2026-01-01'"), ("event=7", "id of an event"),
     ("since=2026-01-02T00:00:00Z&until=2026-01-02T00:00:00Z", "after since"), 
     ("since=2026-01-02T00:00:00Z&changed=shape", "title"),
     ("since=2026-01-02T00:00:00Z&since=2026-01-02T00:00:00Z", "more than once"), ("request_id=&task=7", "1 to 200")],
)  # fmt: skip
def test_what_is_wrong_is_named(auditor, query, said):
    assert said in problem(auditor.get(f"/api/audit?{query}"), 400)["detail"]


def test_what_was_recorded_late_is_found_where_it_occurred(auditor, monkeypatch):
    """A moment's delay, a day's outage and a held event: the span's end in the log is not the end of what occurred in it."""
    monkeypatch.setattr(search, "WINDOW", 3)
    day = 86_400
    write(*({"occurred": n, "recorded": day + n / 100} for n in range(5)), *({"occurred": day + n} for n in range(10)))
    write({"occurred": 3, "recorded": day * 2, "task": 1}, *({"occurred": 2 * day + n} for n in range(4)))
    write({"occurred": 3 * day, "recorded": 3 * day + 50}, {"occurred": 3 * day + 60})
    for query, expected in (
        ({"since": at(0), "until": at(10)}, [16, 5, 4, 3, 2, 1]),
        ({"since": at(3), "until": at(day + 2)}, [16, 7, 6, 5, 4]),
        ({"since": at(3), "until": at(10), "task": TASKS[1]}, [16]),
        ({"until": at(4), "actor": "7,8"}, [16, 4, 3, 2, 1]),
        ({"since": at(0), "until": at(day), "actor": "9"}, []),
        ({"since": at(3 * day), "until": at(3 * day + 5)}, [21]),
    ):
        for limit in (1, 2, 50):
            found, last = walk(auditor, {**query, "limit": limit})
            assert found == expected
            assert walk_back(auditor, last) == expected


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"task": st.integers(0, 2), "actor": st.sampled_from("789"), "type": st.sampled_from(["task.created", "task.updated"]),
         "delay": st.sampled_from([0, 0, 0, 1, 45, 70, 4000]), "pause": st.sampled_from([0, 1, 30, 100])}
    ),
    max_size=25,
)  # fmt: skip
TIMES = st.none() | st.integers(-10, 2500)


@settings(max_examples=60, deadline=None)
@given(
    entries=ENTRIES, since=TIMES, until=TIMES, tasks=st.sets(st.integers(0, 2), max_size=2), actors=st.sets(st.sampled_from("789")),
    types=st.sets(st.sampled_from(["task.created", "task.updated"]), max_size=1), window=st.sampled_from([1, 3, 100]),
    limit=st.integers(1, 4),
)  # fmt: skip
def test_any_search_by_pages_finds_what_a_look_at_each_entry_finds(entries, since, until, tasks, actors, types, window, limit):
    # All examples run in one transaction.
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT example")
    before, search.WINDOW = search.WINDOW, window
    try:
        now, made = 0.0, []
        for entry in entries:
            now += entry["pause"]
            made.append({**entry, "occurred": now - entry["delay"], "recorded": now})
        write(*made)
        moment = lambda seconds: None if seconds is None else START + timedelta(seconds=seconds)  # noqa: E731
        wanted = search.Search(
            tasks=[TASKS[n] for n in tasks], actors=sorted(actors), types=sorted(types), since=moment(since), until=moment(until)
        )
        expected = [
            seq for seq, entry in enumerate(made, start=1)
            if (not tasks or entry["task"] in tasks) and (not actors or entry["actor"] in actors)
            and (not types or entry["type"] in types) and (since is None or entry["occurred"] >= since)
            and (until is None or entry["occurred"] < until)
        ][::-1]  # fmt: skip
        assert pages(wanted, limit) == expected
    finally:
        search.WINDOW = before
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK TO SAVEPOINT example")


def pages(wanted: search.Search, limit: int) -> list[int]:
    """There by the keys of older rows, and back by those of newer ones: both ways alike."""
    found, key = [], None
    for _ in itertools.count():
        page = search.page(wanted, search.Page(limit, key))
        found += [json.loads(text)["seq"] for text in page.texts]
        if page.older is None:
            break
        key = page.older
    back, key = [json.loads(text)["seq"] for text in page.texts], page.newer
    while key is not None:
        page = search.page(wanted, search.Page(limit, key, backward=True))
        back = [json.loads(text)["seq"] for text in page.texts] + back
        key = page.newer
    assert back == found
    return found


def test_a_search_is_a_constant_number_of_statements(auditor):
    costs = {
        "": 1, f"task={TASKS[0]}": 1, "actor=7": 1, "actor=me,8": 1, "actor=ana": 2, f"since={at(0)[:19]}Z": 3,
        f"task={TASKS[0]}&type=task.updated": 2, f"actor=ana&since={at(0)[:19]}Z&changed=title": 4,
    }  # fmt: skip
    for count in (1, 60):
        write(*({} for _ in range(count)))
        for query, cost in costs.items():
            with statements() as found:
                assert auditor.get(f"/api/audit?{query}").status_code == 200
            assert len([sql for sql in found if "apitoken" not in sql]) == cost, (query, found)


def test_a_place_is_found_in_a_look_for_each_halving():
    write(*({"occurred": n, "task": n % 2} for n in range(1, 65)))
    of_task = f"e.task_id = '{TASKS[1]}'"
    for seconds in range(66):
        query = bisection.last("found", of_task, f"e.occurred_at <= '{at(seconds)}'")
        with connection.cursor() as cursor:
            cursor.execute(f"WITH RECURSIVE {query} SELECT max(seq), count(*) FROM found")
            seq, looks = cursor.fetchone()
        assert seq == (seconds - 1 + seconds % 2 if 1 <= seconds <= 64 else 63 if seconds == 65 else None)
        assert looks <= 8


def test_a_page_looks_at_no_more_than_a_few_windows_however_many_were_recorded_late(auditor, monkeypatch):
    """An outage of which a span holds all: 120 entries late beside 20 that were not, none of an actor who is searched for."""
    window = 5
    monkeypatch.setattr(search, "WINDOW", window)
    write(*({} for _ in range(20)), *({"occurred": 30 + n, "recorded": 86_400 + n / 100} for n in range(120)), {"occurred": 90_000})
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE task_audit_log")
        # As in a log that is large: of a small one PostgreSQL sorts what a bitmap gives, dead rows of other tests among it.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
    wanted = search.Search(actors=["9"], until=START + timedelta(seconds=1000))
    key, looked_at = None, []
    for backward in (False, True):
        while True:
            with statements() as found:
                page = search.page(wanted, search.Page(2, key, backward))
            assert page.texts == []
            looked_at += [examine(explain(sql, None), 10**6)[0] for sql in found[1:]]
            assert max(looked_at) <= 6 * window
            if (following := page.newer if backward else page.older) is None:
                break
            key = following
    assert len(looked_at) > 2 * 2 * 120 / window  # each of them is looked at, by pages, there and back


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("wanted", [search.Search(actors=["8"]), search.Search(tasks=[TASKS[1]]), search.Search(actors=["8", "9"])])
def test_who_had_many_entries_and_ceased_is_looked_for_by_an_index(wanted, backward):
    """Statistics tell how many entries an actor or a task has, not where: nobody walks along the others that came after."""
    write({"actor": "8", "task": 1}, {"actor": "7"})
    of_them, others = (2, 1) if backward else (1, 2)
    columns = ", ".join(field.column if field.column != "offset" else '"offset"' for field in Entry._meta.concrete_fields[2:])
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO task_audit_log SELECT n, uuidv7(), {columns} FROM generate_series(3, 20000) n, task_audit_log "
            f"WHERE seq = CASE WHEN n < 4000 THEN {of_them} ELSE {others} END"
        )
        cursor.execute("ANALYZE task_audit_log")
    with statements() as found:
        page = search.page(wanted, search.Page(20, 1 if backward else None, backward))
    assert len(page.texts) == 20
    assert examine(explain(found[-1], None), 10**6) == (21, [])


def test_the_indexes_hold_on_each_partition_that_there_will_be():
    names = ["task_audit_log_actor", "task_audit_log_late", "task_audit_log_late_seq"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT audit_ensure_partition(10000001)")
        cursor.execute(
            "SELECT c.relname, count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent "
            "JOIN pg_index x ON x.indexrelid = c.oid WHERE c.relname = ANY (%s) AND x.indisvalid GROUP BY 1 ORDER BY 1",
            [names],
        )
        assert cursor.fetchall() == [(name, 2) for name in names]
