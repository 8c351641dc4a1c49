"""A task as it was, and how far its changes are audited: `?version=`, `?as_of=`, `/audited`."""

import io
import uuid
from datetime import datetime, timedelta
from urllib.parse import quote

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import watermark
from audit.models import Entry
from tasks.api import prefer
from tasks.models import Task
from tests.api_client import Api, api, person, problem, statements
from tests.recording import messages, waiting
from tests.recording import record as record_messages
from tests.test_api_audit import record

pytestmark = pytest.mark.django_db


@pytest.fixture
def writer():
    return api("member")


def at(caller: Api, key, **when):
    return caller.get(f"/api/tasks/{key}?" + "&".join(f"{name}={quote(str(value))}" for name, value in when.items()))


def just_before(written: str) -> str:
    return (datetime.fromisoformat(written) - timedelta(microseconds=1)).isoformat()


@pytest.mark.parametrize("recorded", [0, 1, 3], ids=["all wait", "one recorded", "all recorded"])
def test_a_task_is_read_as_it_was_wherever_its_events_are(writer, recorded):
    states = [writer.create(title="one", description='ü\n"\\', labels=["a", "b"])]
    path = f"/api/tasks/{states[0]['id']}"
    if recorded == 1:
        record()
    states.append(writer.patch(path, {"status": "completed", "due_at": "2030-01-01T00:00:00Z"}).json())
    states.append(writer.patch(path, {"title": "three"}).json())
    if recorded == 3:
        record()
    for state in states:
        for response in (at(writer, state["id"], version=state["version"]), at(writer, state["id"], as_of=state["updated_at"])):
            assert response.status_code == 200, response.content
            assert response.json() == state
            assert list(response.json()) == sorted(state)
            assert "ETag" not in response
    assert at(writer, states[0]["id"], as_of=just_before(states[2]["updated_at"])).json() == states[1]
    assert at(writer, states[0]["id"], as_of="9999-01-01T00:00:00Z").json() == states[2]
    assert "no such task at 2" in problem(at(writer, states[0]["id"], as_of=just_before(states[0]["updated_at"])), 404)["detail"]
    problem(at(writer, states[0]["id"], version=4), 404)
    problem(at(writer, uuid.uuid4(), version=1), 404)
    problem(at(writer, "x", version=1), 404)


def test_a_deleted_task_is_read_before_its_deletion_and_not_after(writer):
    task = writer.create(title="gone")
    writer.send("DELETE", f"/api/tasks/{task['id']}")
    for _ in range(2):
        assert at(writer, task["id"], version=1).json() == task
        assert at(writer, task["id"], as_of=task["updated_at"]).json() == task
        for when in ({"version": 2}, {"as_of": timezone.now().isoformat()}):
            assert "version 2 is its deletion" in problem(at(writer, task["id"], **when), 404)["detail"]
        record()


def test_an_erased_version_is_gone_and_the_history_says_so(writer):
    task = writer.create(title="secret", assignee=writer.user.pk)
    path = f"/api/tasks/{task['id']}"
    record_messages(messages(waiting()))
    call_command("redact_audit", f"--task={task['id']}", "--reason=asked to", "--asked-by=case 7", "--wait=0", stdout=io.StringIO())
    second = writer.patch(path, {"title": "harmless"}).json()
    record_messages(messages(waiting()))
    by = str(Entry.objects.get(event_type="audit.redacted").event_id)
    for when in ({"version": 1}, {"as_of": task["updated_at"]}):
        assert by in problem(at(writer, task["id"], **when), 410)["detail"]
    assert at(writer, task["id"], version=2).json() == second
    newer, older = (entry for entry in writer.get(f"{path}/history").json() if entry["version"])
    assert (newer["redacted_by"], newer["actor"]["name"]) == (None, writer.user.username)
    assert (older["redacted_by"], older["changes"], older["reason"], older["actor"]["name"]) == (by, {}, None, None)
    assert older["event_data"] == {"redacted": by}
    assert (older["version"], older["event_type"]) == (1, "task.created")
    auditor = api("auditor")
    for query in (f"task={task['id']}&changed=title", "since=2020-01-01T00:00:00Z&changed=title"):
        assert [entry["version"] for entry in auditor.get(f"/api/audit?{query}").json()] == [2]
    (act,) = auditor.get("/api/audit?since=2020-01-01T00:00:00Z&type=audit.redacted").json()
    assert (act["event_id"], act["redacted_by"]) == (by, None)


@pytest.mark.parametrize(
    ("query", "said"),
    [("version=0", "whole number from 1"), ("version=-1", "whole number"), ("version=x", "whole number"),
     ("version=9223372036854775808", "whole number"), ("version=1&version=2", "more than once"), ("version=", "whole number"),
     ("as_of=2026-01-15", "zone"), ("as_of=2026-01-15T10:30:00", "zone"), ("as_of=2026-01-15T10:30:00 02:00", "%2B"),
     ("as_of=2026-13-15T10:30:00Z", "zone"), ("as_of=", "zone"), ("as_of=2026-01-15T10:30:00Z&version=1", "not both"),
     ("versions=1", "did you mean version"), ("=", "no such parameter")],
)  # fmt: skip
def test_what_names_no_past_is_said(writer, query, said):
    task = writer.create()
    assert said in problem(writer.get(f"/api/tasks/{task['id']}?{query}"), 400)["detail"]


def test_reading_the_past_is_one_statement_and_the_present_too(writer):
    task = writer.create()
    path = f"/api/tasks/{task['id']}"
    for versions in (1, 40):
        for n in range(versions):
            writer.patch(path, {"title": f"{versions}.{n}"})
        record()
        for query in ("", "?version=1", f"?as_of={task['updated_at']}", "/audited"):
            with statements() as found:
                assert writer.get(path + query).status_code == 200
            assert len([sql for sql in found if "apitoken" not in sql]) == 1, found


TEXTS = st.text('aé"', min_size=1, max_size=3)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("patch"), st.dictionaries(st.sampled_from(["title", "category"]), TEXTS)),
        st.tuples(st.just("patch"), st.fixed_dictionaries({"status": st.sampled_from(["in_progress", "completed"])})),
        st.tuples(st.sampled_from(["raw SQL", "delete", "insert again", "another task", "record"]), st.none()),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
def test_any_history_gives_back_the_state_of_each_moment_and_version(actions):
    writer = Api(person(is_superuser=True))
    task = writer.create(title="first")
    path, states = f"/api/tasks/{task['id']}", {1: task}
    for action, values in actions:
        alive = Task.objects.filter(pk=task["id"]).exists()
        if action == "patch" and alive:
            writer.patch(path, values)
        elif action == "raw SQL" and alive:
            with connection.cursor() as cursor:
                cursor.execute("UPDATE tasks_task SET category = 'raw' || version WHERE id = %s", [task["id"]])
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        elif action == "delete" and alive:
            writer.send("DELETE", path)
            states[max(states) + 1] = None
        elif action == "insert again" and not alive:
            Task(id=task["id"], title="again").save(force_insert=True)
        elif action == "another task":
            writer.create()
        elif action == "record":
            with connection.cursor() as cursor:  # as the commit before it does: the backstop is not to see what was taken away
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
            record()
        if Task.objects.filter(pk=task["id"]).exists():
            now = writer.get(path).json()
            states.setdefault(now["version"], now)
    for version in sorted(states):
        response = at(writer, task["id"], version=version)
        assert (response.json() if states[version] else response.status_code) == (states[version] or 404)
    for before, version in zip([None, *sorted(states)], sorted(states), strict=False):
        if states[version] is None:
            continue
        moment = states[version]["updated_at"]
        assert at(writer, task["id"], as_of=moment).json() == states[version]
        earlier = at(writer, task["id"], as_of=just_before(moment))
        expected = states.get(before)
        assert (earlier.json() if expected else earlier.status_code) == (expected or 404)


class Clock:
    """Time that passes by sleeping; `meanwhile` happens after so many seconds."""

    def __init__(self, after: float = 99.0, meanwhile=record):
        self.now, self.after, self.meanwhile = 0.0, after, meanwhile

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        if before < self.after <= self.now:
            self.meanwhile()


def test_the_watermark_follows_the_log(writer):
    task = writer.create()
    path = f"/api/tasks/{task['id']}"

    def read():
        response = writer.get(f"{path}/audited")
        assert response.status_code == 200
        assert (response["Vary"].startswith("Prefer, "), response.get("Preference-Applied")) == (True, None)
        return response.json()

    assert read() == {"version": 1, "audited_version": 0}
    record()
    assert read() == {"version": 1, "audited_version": 1}
    writer.patch(path, {"title": "two"})
    writer.patch(path, {"title": "three"})
    assert read() == {"version": 3, "audited_version": 1}
    record()
    writer.send("DELETE", path)
    assert read() == {"version": 4, "audited_version": 3}
    record()
    assert read() == {"version": 4, "audited_version": 4}
    for key in (uuid.uuid4(), "x"):
        problem(writer.get(f"/api/tasks/{key}/audited"), 404)


@pytest.mark.parametrize(
    ("after", "audited", "slept"), [(0.0, 1, 0.02), (0.5, 1, 0.5), (99.0, 0, 1.0)], ids=["at once", "in time", "never"]
)
def test_a_program_may_wait_for_the_log_a_second_at_most(writer, monkeypatch, after, audited, slept):
    task, clock = writer.create(), Clock(after or 0.01)
    monkeypatch.setattr(watermark, "time", clock)
    response = writer.get(f"/api/tasks/{task['id']}/audited", Prefer="wait=30")
    assert response.json() == {"version": 1, "audited_version": audited}
    assert response["Preference-Applied"] == "wait=1"
    assert clock.now == pytest.approx(slept)


def test_who_waits_does_not_wait_for_what_is_written_meanwhile(writer, monkeypatch):
    task = writer.create()

    def meanwhile():
        record()
        writer.patch(f"/api/tasks/{task['id']}", {"title": "newer"})

    clock = Clock(0.1, meanwhile)
    monkeypatch.setattr(watermark, "time", clock)
    response = writer.get(f"/api/tasks/{task['id']}/audited", Prefer="wait=1")
    assert response.json() == {"version": 2, "audited_version": 1}
    assert clock.now < 0.2


def test_two_threads_of_a_process_wait_and_no_third(writer, monkeypatch):
    task, others, clock = writer.create(), [], Clock()

    def another():
        others.append(writer.get(f"/api/tasks/{task['id']}/audited", Prefer="wait=1"))

    clock.after, clock.meanwhile = 0.1, lambda: (setattr(clock, "after", 0.3), another())
    monkeypatch.setattr(watermark, "time", clock)
    first = writer.get(f"/api/tasks/{task['id']}/audited", Prefer="wait=1")
    # The second waited within the first, the third within the second, which is one too many.
    assert first["Preference-Applied"] == "wait=1"
    assert [response.get("Preference-Applied") for response in others] == [None, "wait=1"]
    assert all(response.json() == {"version": 1, "audited_version": 0} for response in others)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 0), ("wait=1", 1), ("Wait = 5", 5), ('wait="7"', 7), ("respond-async, wait=2", 2), ("wait=3; x=y, wait=9", 3),
     ('a="wait=8, wait=9", wait=4', 4), ('a="\\"", wait=4', 4), ("wait", 0), ("wait=", 0), ("wait=-1", 0), ("wait=1.5", 0),
     ("wait=x, wait=1", 0), ("await=1", 0), ("wait=٣", 0), ("wait=99999999999999999999", 0), ('"', 0), (",,;=", 0)],
)  # fmt: skip
def test_the_header_prefer_is_read_as_rfc_7240_has_it(header, seconds):
    assert prefer.wait_seconds(header) == seconds


@given(st.text(max_size=60))
def test_whatever_the_header_prefer_says_it_is_no_error(header):
    assert prefer.wait_seconds(header) >= 0
