"""`POST /api/tasks/bulk`: many writes in one request."""

import json
import uuid

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from taskpulse.problem_types import BY_NAME
from tasks.api import bulk
from tasks.models import OutboxEvent, Task
from tests.api_client import Api, api, person, pointers, problem, statements

pytestmark = pytest.mark.django_db

PATH = "/api/tasks/bulk"


def create(**fields) -> dict:
    return {"op": "create", "task": {"title": "a task", **fields}}


def update(task, version=None, **fields) -> dict:
    return {"op": "update", "id": task["id"], "task": fields} | ({} if version is None else {"version": version})


def delete(task, version=None) -> dict:
    return {"op": "delete", "id": task["id"]} | ({} if version is None else {"version": version})


def send(caller: Api, *operations, **options):
    return caller.post({"operations": list(operations), **options}, PATH)


def done(caller: Api, *operations, **options) -> list[dict]:
    response = send(caller, *operations, **options)
    assert response.status_code == 200, response.content
    results = response.json()
    assert [result["index"] for result in results] == list(range(len(operations)))
    return results


def events(key: str) -> list[dict]:
    return [json.loads(bytes(row.payload)) for row in OutboxEvent.objects.filter(subject_id=key).order_by("version")]


def test_each_kind_of_operation_leaves_its_task_and_its_event():
    caller, other = api("member"), person()
    changed, removed, same = (caller.create(title=title, assignee=other.pk) for title in ("changed", "removed", "same"))
    results = done(
        caller, delete(removed), create(labels=["b", "a", "b"], assignee=other.pk, due_at="2026-01-15T10:30:00+02:00"),
        update(changed, version=1.0, status="completed", assignee=None), update(same, title="same"),
    )  # fmt: skip
    assert [result["status"] for result in results] == [204, 201, 200, 200]
    assert results[0] == {"index": 0, "status": 204}
    new = results[1]["task"]
    assert (new["labels"], new["assignee"]["name"], new["created_by"]["id"]) == (["b", "a"], other.username, str(caller.user.pk))
    assert new["due_at"] == "2026-01-15T08:30:00.000000Z"
    assert (results[2]["task"]["completed_at"] is None, results[2]["task"]["version"]) == (False, 2)
    assert results[3]["task"] == same
    for result in results[1:]:
        task = result["task"]
        assert caller.get(f"/api/tasks/{task['id']}").json() == task
        assert events(task["id"])[-1]["data"]["task"] == task
    assert events(changed["id"])[1]["data"]["changes"]["assignee"] == {"from": changed["assignee"], "to": None}
    assert [event["type"] for event in events(removed["id"])] == ["task.created", "task.deleted"]
    assert len(events(same["id"])) == 1


def test_each_event_says_who_why_and_in_which_request():
    caller = api("member")
    task = caller.create()
    response = caller.post(
        {"operations": [create(), update(task, title="y")]}, PATH, X_Change_Reason="spring cleaning", X_Request_ID="bulk-1"
    )
    for result in response.json():
        event = events(result["task"]["id"])[-1]
        assert (event["actorid"], event["reason"], event["requestid"]) == (str(caller.user.pk), "spring cleaning", "bulk-1")


@pytest.mark.parametrize("kind", ["create", "update", "delete", "mixed"])
def test_500_cost_as_many_statements_as_5(kind):
    caller, other = api(), person()
    parent = caller.create()

    def operations(count: int) -> list[dict]:
        tasks = [result["task"] for result in done(caller, *[create() for _ in range(count)])]
        rest = {"assignee": other.pk, "parent": parent["id"], "labels": ["a"]}
        makers = {
            "create": lambda n: create(**rest),
            "update": lambda n: update(tasks[n], title=f"title {n}", **rest),
            "delete": lambda n: delete(tasks[n]),
        }
        kinds = list(makers) if kind == "mixed" else [kind]
        return [makers[kinds[n % len(kinds)]](n) for n in range(count)]

    counts = []
    for count in (5, 500):
        asked = operations(count)
        with statements() as made:
            done(caller, *asked)
        counts.append(len(made))
    assert counts[0] == counts[1] <= {"create": 8, "update": 8, "delete": 12, "mixed": 16}[kind], counts


# -- all or nothing


def test_one_wrong_operation_refuses_all_and_each_error_points_into_its_own():
    caller = api()
    task = caller.create()
    operations = [
        create(), create(title=""), update(task, labels=["ok", ""]), create(tilte="x"), {"op": "create"}, {"op": "move"}, 7,
        {"op": "update", "id": "7", "task": {}}, {"op": "delete", "id": str(uuid.uuid4()), "version": 0},
        {"op": "delete", "id": str(uuid.uuid4()), "task": {}}, update(task, title="again"),
    ]  # fmt: skip
    refused = send(caller, *operations)
    assert pointers(refused) == [
        "#/operations/1/task/title", "#/operations/10/id", "#/operations/2/task/labels/1", "#/operations/3/task/tilte",
        "#/operations/4/task", "#/operations/5/op", "#/operations/6", "#/operations/7/id", "#/operations/8/version",
        "#/operations/9/task",
    ]  # fmt: skip
    assert "10 of 11" in problem(refused, 422)["detail"]
    assert Task.objects.count() == 1
    assert len(events(task["id"])) == 1


@pytest.mark.parametrize(
    ("make", "kind", "pointer"),
    [
        (lambda task: update({"id": str(uuid.uuid4())}, title="x"), "not-found", "id"),
        (lambda task: delete({"id": str(uuid.uuid4())}), "not-found", "id"),
        (lambda task: update(task, version=2, title="x"), "stale-version", "version"),
        (lambda task: delete(task, version=7), "stale-version", "version"),
        (lambda task: update(task, status="pending"), "illegal-transition", "task/status"),
        (lambda task: create(assignee=2**31 - 1), "invalid-body", "task/assignee"),
        (lambda task: create(assignee={}), "invalid-body", "task/assignee"),
        (lambda task: create(parent=str(uuid.uuid4())), "invalid-body", "task/parent"),
        (lambda task: update(task, parent=task["id"]), "invalid-body", "task/parent"),
    ],
)
def test_all_is_refused_with_the_type_that_its_refusals_share(make, kind, pointer):
    caller = api()
    task = caller.create(status="completed")
    refused = problem(send(caller, create(), make(task)), BY_NAME[kind].status)
    assert refused["type"] == f"/api/problems/{kind}"
    assert [error["pointer"] for error in refused["errors"]] == [f"#/operations/1/{pointer}"]
    several = problem(send(caller, make(task), create(title="x", assignee=2**31 - 1)), 422)
    assert (several["type"], len(several["errors"])) == ("/api/problems/invalid-body", 2)
    assert Task.objects.count() == 1


def test_what_is_no_list_of_operations_is_422():
    caller = api()
    bodies = {
        "#": [], "#/operations": {}, "#/atomic": {"atomic": 1, "operations": [create()]}, "#/x": {"x": 1, "operations": [create()]},
    }  # fmt: skip
    for pointer, body in bodies.items():
        assert pointers(caller.post(body, PATH)) == [pointer]
    for operations in ([], {}, None, [create()] * 1_001):
        assert pointers(caller.post({"operations": operations}, PATH)) == ["#/operations"]


def test_only_post_is_there():
    caller = api()
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = caller.send(method, PATH, {"operations": [create()]})
        problem(response, 405)
        assert "POST" in response["Allow"]


def test_a_request_that_is_sent_again_is_done_once():
    caller = api("member")
    task = caller.create()
    body = {"operations": [create(), update(task, title="y")]}
    first, again = (caller.post(body, PATH, Idempotency_Key="bulk-1") for _ in range(2))
    assert (again.status_code, again.content, again["Idempotent-Replayed"]) == (200, first.content, "true")
    assert Task.objects.count() == 2
    assert len(events(task["id"])) == 2
    problem(caller.post({"operations": [create()]}, PATH, Idempotency_Key="bulk-1"), 422)


def test_where_a_version_is_demanded_each_operation_on_a_task_names_one(settings):
    caller = api()
    first, second, third = (caller.create() for _ in range(3))
    settings.REQUIRE_IF_MATCH = True
    refused = problem(send(caller, create(), update(first, title="y"), delete(second), update(third, version=1, title="y")), 428)
    assert [error["pointer"] for error in refused["errors"]] == ["#/operations/1/version", "#/operations/2/version"]
    assert [result["status"] for result in done(caller, update(first, version=1, title="y"), delete(second, version=1))] == [
        200,
        204,
    ]


# -- each for itself


def test_each_has_its_result_where_it_is_not_all_or_nothing():
    caller = api()
    first, second = caller.create(), caller.create()
    results = done(
        caller, create(title=""), update(first, version=9, title="x"), update(second, title="y"), delete({"id": str(uuid.uuid4())}),
        create(), 7, atomic=False,
    )  # fmt: skip
    assert [result["status"] for result in results] == [422, 412, 200, 404, 201, 422]
    for result in results:
        if result["status"] >= 400:
            assert result["problem"]["status"] == result["status"]
            assert "task" not in result
            assert all(error["pointer"].startswith(f"#/operations/{result['index']}") for error in result["problem"]["errors"])
            assert result["problem"]["request_id"]
    assert Task.objects.count() == 3
    assert [len(events(task["id"])) for task in (first, second)] == [1, 2]


@pytest.mark.parametrize("atomic", [True, False])
def test_what_only_the_database_refuses_points_into_its_operation_too(monkeypatch, atomic):
    """As in a race: what is looked up before is right, and wrong when it is written."""
    caller = api()
    tasks = [caller.create() for _ in range(5)]
    monkeypatch.setattr(bulk, "_check_parents", lambda *_: None)
    updates = [update(task, parent=task["id"] if n == 2 else None, title="y") for n, task in enumerate(tasks)]
    response = send(caller, *updates, create(), atomic=atomic)
    if atomic:
        assert pointers(response) == ["#/operations/2/task/parent"]
        assert Task.objects.filter(title="y").count() == 0
    else:
        assert [result["status"] for result in response.json()] == [200, 200, 422, 200, 200, 201]
        assert [len(events(task["id"])) for task in tasks] == [2, 2, 1, 2, 2]


# -- subtasks: what one operation does is not there for another


def test_subtasks_stay_one_level_deep_within_a_request():
    caller = api()
    top, plain, other = (caller.create() for _ in range(3))
    child = caller.create(parent=top["id"])
    wrong = {
        "the parent is a subtask": [create(parent=child["id"])],
        "the task has subtasks": [update(top, parent=plain["id"])],
        "an operation makes the parent a subtask": [update(plain, parent=top["id"]), create(parent=plain["id"])],
        "the parent is a subtask until this request": [update(child, parent=None), create(parent=child["id"])],
        "an operation deletes the parent": [delete(top), update(child, title="y")],
        "an operation deletes the new parent": [create(parent=plain["id"]), delete(plain)],
    }
    for what, operations in wrong.items():
        assert [pointer.split("/", 3)[3] for pointer in pointers(send(caller, *operations))] == ["task/parent"], what
    results = done(caller, delete(top), update(child, parent=other["id"]), create(parent=other["id"]))
    assert [result["status"] for result in results] == [204, 200, 201]
    assert {str(task.pk) for task in Task.objects.filter(parent=other["id"])} == {child["id"], results[2]["task"]["id"]}


def test_what_is_refused_is_in_nobodys_way():
    caller = api()
    first, second, third = (caller.create() for _ in range(3))
    nowhere = {"id": str(uuid.uuid4())}
    for operations, expected in (
        ([update(first, parent=nowhere["id"]), create(parent=first["id"])], [422, 201]),
        ([create(parent=first["id"]), update(first, parent=second["id"]), update(second, parent=third["id"])], [201, 422, 200]),
    ):
        with transaction.atomic():
            assert [result["status"] for result in done(caller, *operations, atomic=False)] == expected
            transaction.set_rollback(True)
    ring = done(caller, update(first, parent=second["id"]), update(second, parent=first["id"]), atomic=False)
    assert sorted(result["status"] for result in ring) == [200, 422]


def test_a_parent_and_its_subtask_are_deleted_together():
    caller = api()
    parent = caller.create()
    children = [caller.create(parent=parent["id"]) for _ in range(2)]
    assert [result["status"] for result in done(caller, delete(children[0]), delete(parent))] == [204, 204]
    assert not Task.objects.exists()
    connection.check_constraints()  # as the commit does
    assert [[event["type"] for event in events(task["id"])] for task in (parent, *children)] == [
        ["task.created", "task.deleted"]
    ] * 3


def test_a_deactivated_person_stays_and_gets_nothing_new():
    caller, other = api(), person()
    task = caller.create(assignee=other.pk)
    User.objects.filter(pk=other.pk).update(is_active=False)
    (kept,) = done(caller, update(task, assignee=other.pk, title="y"))
    assert kept["task"]["assignee"]["id"] == str(other.pk)
    assert done(caller, update(task, assignee={"name": "ignored"}))[0]["task"]["assignee"]["id"] == str(other.pk)
    assert pointers(send(caller, create(assignee=other.pk))) == ["#/operations/0/task/assignee"]


# -- against the single requests


_fields = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["one", "", None]),
        "priority": st.sampled_from(["low", "urgent", None]),
        "status": st.sampled_from(["in_progress", "completed", "pending", None]),
        "labels": st.lists(st.sampled_from("ab"), max_size=2),
        "description": st.text('aé"\\\n🎈', max_size=4),
        "due_at": st.sampled_from(["0001-01-01T00:00:00Z", "2026-01-15", None]),
        "summary": st.sampled_from(["s", "", None]),
        "x": st.none(),
    },
)
_moves = st.tuples(
    st.sampled_from(["create", "update", "delete"]),
    st.sampled_from([None, 1, 2]),
    _fields,
    st.sampled_from(["pending", "completed"]),
)


@examples(max_examples=8, suppress_health_check=list(HealthCheck))
@given(moves=st.lists(_moves, min_size=1, max_size=5))
def test_each_operation_does_what_its_own_request_does(moves):
    caller = api()
    mine, theirs = ([caller.create(status=status) for _, _, _, status in moves] for _ in range(2))
    operations, expected = [], []
    for (op, version, fields, _), task, twin in zip(moves, mine, theirs, strict=True):
        headers = {} if version is None else {"If_Match": f'"{version}"'}
        if op == "create":
            operations.append({"op": op, "task": fields})
            expected.append(caller.post(fields))
        elif op == "update":
            operations.append(update(task, version, **fields))
            expected.append(caller.patch(f"/api/tasks/{twin['id']}", fields, **headers))
        else:
            operations.append(delete(task, version))
            expected.append(caller.send("DELETE", f"/api/tasks/{twin['id']}", **headers))
    results = done(caller, *operations, atomic=False)
    assert [result["status"] for result in results] == [response.status_code for response in expected]
    for result, response in zip(results, expected, strict=True):
        if "task" in result:
            assert _said(result["task"]) == _said(response.json())
        elif response.status_code == 422:
            prefix = f"#/operations/{result['index']}/task"
            assert [error["pointer"].replace(prefix, "#", 1) for error in result["problem"]["errors"]] == [
                error["pointer"] for error in response.json()["errors"]
            ]


_places = st.sampled_from([None, 0, 1, 2, 3, 4, "nowhere"])
_kinds = st.sampled_from(["create", "update", "update", "title", "delete"])
_family = st.tuples(_kinds, st.integers(0, 4), _places, st.sampled_from([None, 1, 7]))


@examples(max_examples=25, suppress_health_check=list(HealthCheck))
@given(asked=st.lists(_family, min_size=4, max_size=8), subtasks=st.sets(st.integers(2, 4)))
def test_each_operation_on_a_family_is_done_unless_it_is_wrong_alone_or_what_is_done_stands_against_it(asked, subtasks):
    caller = api()
    tasks = [caller.create() for _ in range(2)]
    tasks += [caller.create(parent=tasks[n % 2]["id"] if n in subtasks else None) for n in range(2, 5)]
    operations, named = [], set()
    for op, n, place, version in asked:
        if op != "create" and n in named:
            continue
        parent = str(uuid.uuid4()) if place == "nowhere" else None if place is None else tasks[place]["id"]
        named |= set() if op == "create" else {n}
        operations.append(
            {"create": create(parent=parent), "update": update(tasks[n], version, parent=parent),
             "title": update(tasks[n], version, title="y"), "delete": delete(tasks[n], version)}[op]
        )  # fmt: skip
    alone = []
    for operation in operations:
        with transaction.atomic():
            alone.append(done(caller, operation, atomic=False)[0]["status"])
            transaction.set_rollback(True)
    results = [result["status"] for result in done(caller, *operations, atomic=False)]
    before = {task["id"]: task["parent"] for task in tasks}
    made = [operation for operation, status in zip(operations, results, strict=True) if status < 300]
    against = {one["id"] for one in made if one["op"] == "delete" or (one["op"] == "update" and one["task"].get("parent"))}
    for operation, status, by_itself in zip(operations, results, alone, strict=True):
        parent = operation.get("task", {}).get("parent", before.get(operation.get("id")))
        refused = by_itself >= 400 or (operation["op"] != "delete" and parent in against)
        assert (status >= 400) == refused, (operation, status, by_itself)
    assert not Task.objects.filter(parent__parent__isnull=False).exists()


def _said(task: dict) -> dict:
    return {name: value for name, value in task.items() if name not in {"id", "created_at", "updated_at", "completed_at"}}
