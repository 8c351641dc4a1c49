"""PATCH is JSON Merge Patch (RFC 7396)."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api_client import ABSENT, api, person, pointers, problem

pytestmark = pytest.mark.django_db

MERGE_PATCH = "application/merge-patch+json"
_WRITABLE = ["assignee", "category", "description", "due_at", "labels", "parent", "priority", "status", "summary", "title"]


def merge(target, patch):
    """RFC 7396 §2, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge(target.get(name), value)
    return target


# RFC 7396, appendix A.
_APPENDIX = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), _APPENDIX)
def test_what_the_api_is_held_against_is_the_rfc(target, patch, result):
    assert merge(target, patch) == result


def writable(task: dict) -> dict:
    """The members that a caller writes; what is null is not there."""
    return {name: task[name] for name in _WRITABLE if task[name] is not None}


def fields(refused) -> set[str]:
    return {pointer.split("/")[1] for pointer in pointers(refused)}


@pytest.fixture
def world():
    caller, other = api(), person()
    return caller, other, caller.create()["id"]


def _patches(other, parent: str):
    someone = st.sampled_from([str(other.pk), other.pk])
    assignees = st.one_of(
        someone,
        st.fixed_dictionaries({}, optional={"id": someone | st.none(), "name": st.none() | st.just("anybody")}),
    )
    members = {
        "assignee": assignees,
        "category": st.sampled_from(["billing", ""]),
        "description": st.text("ab", max_size=3),
        "due_at": st.sampled_from(["2026-01-15T10:30:00.000000Z", "2027-01-15T10:30:00.000000Z"]),
        "labels": st.lists(st.sampled_from("abc"), unique=True),
        "parent": st.just(parent),
        "priority": st.sampled_from(["low", "high"]),
        "status": st.just("in_progress"),
        "summary": st.text("ab", max_size=3),
        "title": st.text("ab", max_size=3),
    }
    return st.fixed_dictionaries({}, optional={name: values | st.none() for name, values in members.items()})


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_patched_task_is_the_task_that_the_patched_document_makes(world, data):
    """Patching what the API shows and creating a task of the result gives what PATCH gives, or the same refusal."""
    caller, other, parent = world
    patches = _patches(other, parent)
    start = merge({"title": "a task"}, data.draw(patches))
    created = caller.post(start)
    if created.status_code != 201:
        return  # a document that no task has
    before, patch = created.json(), data.draw(patches)
    expected = caller.post(merge(writable(before), patch))
    patched = caller.send("PATCH", f"/api/tasks/{before['id']}", patch, MERGE_PATCH)
    if expected.status_code == 201:
        assert patched.status_code == 200, patched.content
        assert writable(patched.json()) == writable(expected.json())
    else:
        assert fields(patched) & fields(expected)


@pytest.mark.parametrize("content_type", [MERGE_PATCH, "Application/Merge-Patch+JSON; charset=utf-8", "application/json"])
def test_null_removes_whatever_the_patch_is_called(content_type):
    caller = api()
    task = caller.create(
        description="x", labels=["a"], priority="high", status="in_progress", category="c", summary="s",
        due_at="2026-01-01T00:00:00Z", assignee=caller.user.pk,
    )  # fmt: skip
    path = f"/api/tasks/{task['id']}"
    patch = dict.fromkeys(["description", "labels", "priority", "status", "category", "summary", "due_at", "assignee", "parent"])
    changed = caller.send("PATCH", path, patch, content_type).json()
    assert writable(changed) == {"title": "a task", "description": "", "labels": [], "priority": "medium", "status": "pending"}
    assert changed["version"] == 2
    assert pointers(caller.send("PATCH", path, {"title": None}, content_type)) == ["#/title"]
    assert pointers(caller.send("PATCH", path, {"nothing": None}, content_type)) == ["#/nothing"]


def test_an_assignee_merges_by_its_members():
    caller, other = api(), person()
    task = caller.create(assignee=other.pk)
    path = f"/api/tasks/{task['id']}"
    for same in ({}, {"name": "somebody"}, {"name": None}, {"id": str(other.pk)}):
        assert caller.patch(path, {"assignee": same}).json() == task
    assert caller.patch(path, {"assignee": {"id": caller.user.pk}}).json()["assignee"]["name"] == caller.user.username
    assert pointers(caller.patch(path, {"assignee": {"id": None}})) == ["#/assignee/id"]
    assert caller.patch(path, {"assignee": None}).json()["assignee"] is None
    assert pointers(caller.patch(path, {"assignee": {"name": "somebody"}})) == ["#/assignee"]


def test_labels_are_replaced_as_a_whole():
    caller = api()
    task = caller.create(labels=["a", "b"])
    assert caller.patch(f"/api/tasks/{task['id']}", {"labels": ["c"]}).json()["labels"] == ["c"]


_OTHERS = ["application/json-patch+json", "text/plain", "", "application/merge-patch+json; charset=latin-1"]


@pytest.mark.parametrize("content_type", _OTHERS)
def test_another_patch_is_415_and_says_which_are_taken(content_type):
    caller = api()
    path = f"/api/tasks/{caller.create()['id']}"
    refused = caller.send("PATCH", path, [{"op": "remove", "path": "/title"}], content_type)
    problem(refused, 415)
    assert refused["Accept-Patch"] == "application/merge-patch+json, application/json"
    assert "Accept" not in refused


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/tasks"), ("PUT", None)])
def test_a_merge_patch_is_for_patch_alone(method, path):
    caller = api()
    refused = caller.send(method, path or f"/api/tasks/{caller.create()['id']}", {"title": "x"}, MERGE_PATCH)
    problem(refused, 415)
    assert refused["Accept"] == "application/json"
    assert "Accept-Patch" not in refused


def test_a_merge_patch_of_no_object_is_422():
    caller = api()
    path = f"/api/tasks/{caller.create()['id']}"
    for body in (None, [], "x", 1):
        assert pointers(caller.send("PATCH", path, body, MERGE_PATCH)) == ["#"]
    problem(caller.send("PATCH", path, ABSENT, MERGE_PATCH), 400)
