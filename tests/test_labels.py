"""Labels: a table that decorates what tasks bear, its changes captured, renamed and deleted on the tasks too."""

import json
import uuid

import hypothesis
import hypothesis.strategies as st
import pytest
import rfc8785
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.db.utils import DataError

from tasks import label_changes
from tasks.api import label_queries
from tasks.models import Label, OutboxEvent, Task
from tests.api_client import api, pointers, problem, statements
from tests.test_api_lists import links
from tests.test_capture import commit_now, events_of

pytestmark = pytest.mark.django_db


def run_sql(statement: str, *parameters) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


# The table and its events.


def test_every_path_makes_one_event_of_no_task():
    label = Label.objects.create(name="bug", colour="#d73a4a", description="Something is broken")
    key = label.pk
    label.colour = "#000000"
    label.save()
    Label.objects.filter(pk=key).update(description="")
    run_sql("UPDATE tasks_label SET name = 'defect'")
    Label.objects.get().delete()
    commit_now()
    made = events_of(key)
    assert [(event["type"], int(event["sequence"])) for event in made] == [
        ("label.created", 1), ("label.updated", 2), ("label.updated", 3), ("label.updated", 4), ("label.deleted", 5)
    ]  # fmt: skip
    assert {event["subject"] for event in made} == {f"label/{key}"}
    assert not any("taskid" in event for event in made)
    assert set(OutboxEvent.objects.values_list("task_id", flat=True)) == {None}
    assert made[3]["data"]["changes"] == {"name": {"from": "bug", "to": "defect"}}
    assert made[0]["data"]["label"] == {
        "colour": "#d73a4a", "description": "Something is broken", "id": str(key), "name": "bug", "updated_at": made[0]["time"],
        "version": 1,
    }  # fmt: skip


def test_signal_and_backstop_write_the_same_document():
    label = Label.objects.create(name='"é😀\n\x7f\u2028')
    with connection.cursor() as cursor:
        cursor.execute("SELECT label_document(l) FROM tasks_label l")
        assert json.loads(cursor.fetchone()[0]) == label.document() == events_of(label.pk)[0]["data"]["label"]
    run_sql("INSERT INTO tasks_label (name) VALUES ('raw')")
    commit_now()
    raw = Label.objects.get(name="raw")
    payload = bytes(OutboxEvent.objects.get(subject_id=str(raw.pk)).payload)
    assert payload == rfc8785.dumps(json.loads(payload))
    assert json.loads(payload)["data"]["label"] == raw.document()
    assert (raw.colour, raw.description) == ("#808080", "")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"name": ""}, IntegrityError),
        ({"name": "taken"}, IntegrityError),
        ({"name": "x" * 65}, DataError),
        ({"name": "x", "colour": "red"}, IntegrityError),
        ({"name": "x", "colour": "#FFFFFF"}, IntegrityError),
        ({"name": "x", "colour": "#fff"}, IntegrityError),
        ({"name": "x", "colour": "#ffffff\n"}, DataError),
        ({"name": "x", "colour": "#fffff\n"}, IntegrityError),
        ({"name": "x", "description": "x" * 201}, DataError),
    ],
)
def test_the_database_keeps_the_rules(fields, refusal):
    Label.objects.create(name="taken")
    with pytest.raises(refusal), transaction.atomic():
        Label.objects.create(**fields)


def test_names_are_compared_as_the_labels_of_tasks_are():
    Label.objects.create(name="bug")
    Label.objects.create(name="Bug")
    assert [label.name for label in Label.objects.order_by("pk")] == ["bug", "Bug"]


# The API.


def bearing(*labels: str, **fields) -> Task:
    return Task.objects.create(title="a task", labels=list(labels), **fields)


def test_a_label_is_created_read_changed_and_deleted():
    caller = api("member")
    response = caller.post({"name": "area/api ü", "colour": "#D73A4A"}, "/api/labels", X_Change_Reason="why")
    assert response.status_code == 201, response.content
    label = response.json()
    assert label == Label.objects.get().document()
    assert (label["colour"], label["description"], response["ETag"]) == ("#d73a4a", "", '"1"')
    assert response["Location"] == f"http://testserver/api/labels/{label['id']}"
    for path in (label["id"], "area%2Fapi%20%C3%BC", "area/api%20%C3%BC/", label["id"].upper()):
        found = caller.get(f"/api/labels/{path}")
        assert (found.status_code, found.json(), found["ETag"]) == (200, label, '"1"')
        known = caller.get(f"/api/labels/{path}", If_None_Match='W/"1"')
        assert (known.status_code, known.content, known["ETag"]) == (304, b"", '"1"')
        assert caller.get(f"/api/labels/{path}", If_None_Match='"2"').json() == label
    assert label_queries.read(label["name"], ['"7"', '"1"']) == label_queries.read(label["id"], ["*"]) == ('"1"', None)  # no JSON
    path = f"/api/labels/{label['id']}"
    assert problem(caller.patch(path, {"colour": "#000000"}, If_Match='"2"'), 412)["detail"].startswith("The label is at version 1")
    changed = caller.send("PUT", path, {"description": "of the API", "id": "ignored"}, If_Match='"1"')
    assert (changed.status_code, changed["ETag"]) == (200, '"2"')
    assert changed.json() == Label.objects.get().document() | {"name": "area/api ü", "colour": "#d73a4a"}
    cleared = caller.send("PATCH", path, {"description": None, "colour": None}, "application/merge-patch+json").json()
    assert (cleared["description"], cleared["colour"]) == ("", "#808080")
    assert caller.send("DELETE", path).status_code == 204
    assert problem(caller.get(path), 404)
    made = events_of(label["id"])
    assert [event["type"] for event in made] == ["label.created", "label.updated", "label.updated", "label.deleted"]
    assert (made[0]["reason"], made[0]["actorid"]) == ("why", str(caller.user.pk))


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["#/name"]),
        ({"name": ""}, ["#/name"]),
        ({"name": "x" * 65}, ["#/name"]),
        ({"name": None, "colour": None, "description": None}, ["#/colour", "#/description", "#/name"]),
        ({"name": "x", "colour": "red"}, ["#/colour"]),
        ({"name": "x", "colour": "#ffffff\n"}, ["#/colour"]),
        ({"name": "x", "colour": 7, "description": "x" * 201}, ["#/colour", "#/description"]),
        ({"name": "x", "color": "#ffffff"}, ["#/color"]),
        ({"name": "taken"}, ["#/name"]),
    ],
)
def test_wrong_values_are_each_pointed_at(body, wrong):
    Label.objects.create(name="taken")
    assert pointers(api().post(body, "/api/labels")) == wrong
    assert Label.objects.count() == 1


@pytest.mark.parametrize("path", ["no-such", "%00", str(uuid.UUID(int=7)), "a/b", "x" * 300])
def test_a_label_that_is_not_there(path):
    for method in ("GET", "PATCH", "DELETE"):
        problem(api().send(method, f"/api/labels/{path}", {}), 404)


def test_the_list_is_by_name_in_pages_both_ways():
    names = ["Z", "a", "ä", "b/c", "x" * 64, "😀" * 64]
    for name in reversed(names):
        Label.objects.create(name=name)
    order = list(Label.objects.order_by("name").values_list("name", flat=True))
    caller = api("viewer")
    assert [label["name"] for label in caller.get("/api/labels").json()] == order
    pages, path = [], "/api/labels?limit=2"
    while path:
        response = caller.get(path)
        pages.append([label["name"] for label in response.json()])
        last, path = response, links(response).get("next")
        Label.objects.filter(name=pages[-1][-1]).delete()  # the page after it begins where it was all the same
    assert [name for page in pages for name in page] == order
    Label.objects.bulk_create([Label(name=name) for name in order if not Label.objects.filter(name=name).exists()])
    assert [label["name"] for label in caller.get(links(last)["prev"]).json()] == pages[-2]
    for query, parameter in (("limit=0", "limit"), ("cursor=xyz", "cursor"), ("order=name", "order")):
        errors = problem(caller.get(f"/api/labels?{query}"), 400)["errors"]
        assert [error["parameter"] for error in errors] == [parameter]


def test_the_page_and_the_look_up_by_name_are_served_by_the_index():
    Label.objects.bulk_create([Label(name=f"label {number}") for number in range(3000)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks_label")
        for rest in ("> 'label 5' ORDER BY name LIMIT 51", "= 'x'"):
            cursor.execute(f"EXPLAIN SELECT * FROM tasks_label WHERE name {rest}")
            assert "label_name" in "\n".join(line for (line,) in cursor)


def test_statements():
    caller = api()
    bearing("bug")
    with statements() as one:
        created = caller.post({"name": "bug"}, "/api/labels").json()
    path = f"/api/labels/{created['id']}"
    with statements() as read:
        caller.get(path)
    with statements() as listed:
        caller.get("/api/labels")
    with statements() as coloured:
        caller.patch(path, {"colour": "#000000"})
    # Beside the token's.
    assert [len(found) - 1 for found in (one, read, listed, coloured)] == [2, 1, 1, 3]
    with statements() as renamed:
        assert caller.patch(path, {"name": "defect"}).status_code == 200
    for _ in range(30):
        bearing("defect", "x")
    with statements() as of_many:
        assert caller.patch(path, {"name": "fault"}).status_code == 200
    assert len(of_many) == len(renamed) <= 9
    with statements() as deleted:
        assert caller.send("DELETE", path).status_code == 204
    assert len(deleted) <= 10
    assert not Task.objects.filter(labels__overlap=["bug", "defect", "fault"]).exists()


# Renamed and deleted on the tasks.


def test_a_rename_is_one_change_of_each_task_that_bears_it():
    one, both, other = bearing("a", "bug", "z"), bearing("defect", "x", "bug"), bearing("bugs", "Bug")
    label = Label.objects.create(name="bug")
    caller = api("member")
    assert caller.patch(f"/api/labels/{label.pk}", {"name": "defect"}, X_Change_Reason="one word for it").status_code == 200
    labels = [Task.objects.get(pk=task.pk).labels for task in (one, both, other)]
    assert labels == [["a", "defect", "z"], ["defect", "x"], ["bugs", "Bug"]]
    for task in (one, both):
        _, renamed = events_of(task.pk)
        assert renamed["data"]["changes"] == {"labels": {"from": task.labels, "to": renamed["data"]["task"]["labels"]}}
        assert (renamed["actorid"], renamed["reason"]) == (str(caller.user.pk), "one word for it")
        assert renamed["data"]["task"]["version"] == 2
    assert len(events_of(other.pk)) == 1


def test_a_deletion_takes_it_from_the_tasks():
    one, other = bearing("a", "bug"), bearing("a")
    label = Label.objects.create(name="bug")
    assert api("member").send("DELETE", "/api/labels/bug", X_Change_Reason="not needed").status_code == 204
    assert [Task.objects.get(pk=task.pk).labels for task in (one, other)] == [["a"], ["a"]]
    assert [event.get("reason") for event in events_of(one.pk)] == [None, "not needed"]
    assert [event["type"] for event in events_of(label.pk)] == ["label.created", "label.deleted"]


NAMES = st.sampled_from(["a", "b", "c", "d\"'{},\\", "ü"])


@hypothesis.settings(max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(borne=st.lists(st.lists(NAMES, max_size=5), max_size=4), old=NAMES, new=NAMES | st.none())
def test_labels_on_tasks_after_a_rename_or_deletion(borne, old, new):
    """Against a model of it; repetitions, which only raw SQL can have made, are gone from what is renamed."""
    with transaction.atomic():
        tasks = Task.objects.bulk_create([Task(title="x", labels=labels) for labels in borne])
        label = Label.objects.get(pk=Label.objects.create(name=old).pk)
        if new is None:
            assert label_changes.delete(label) == sum(old in labels for labels in borne)
            expected = [[label for label in labels if label != old] for labels in borne]
        else:
            label.name = new
            changed = label_changes.save(label)
            assert changed == (0 if new == old else sum(old in labels for labels in borne))
            renamed = [list(dict.fromkeys(new if label == old else label for label in labels)) for labels in borne]
            expected = [after if old in labels and new != old else labels for labels, after in zip(borne, renamed, strict=True)]
        found = Task.objects.in_bulk([task.pk for task in tasks])
        assert [found[task.pk].labels for task in tasks] == expected
        assert [found[task.pk].version for task in tasks] == [1 + (a != b) for a, b in zip(borne, expected, strict=True)]
        transaction.set_rollback(True)


@pytest.fixture
def many(monkeypatch) -> list[Task]:
    """More tasks than a request changes at once."""
    monkeypatch.setattr(label_changes, "MOST_TASKS", 2)
    Label.objects.create(name="bug")
    return [bearing("bug", str(number)) for number in range(5)]


def test_a_request_changes_no_more_tasks_than_it_may_keep_locked(many):
    caller = api()
    for response in (caller.patch("/api/labels/bug", {"name": "defect"}), caller.send("DELETE", "/api/labels/bug")):
        found = problem(response, 409)
        assert found["type"].endswith("/too-many-tasks")
        assert "More than 2 tasks" in found["detail"]
    assert Label.objects.get().version == 1
    assert Task.objects.filter(labels__contains=["bug"], version=1).count() == 5
    many[0].delete(), many[1].delete(), many[2].delete()
    assert caller.patch("/api/labels/bug", {"name": "defect"}).status_code == 200


@pytest.mark.parametrize("known", [True, False], ids=["known label", "free label"])
def test_the_command_changes_any_number_in_steps(many, known, capsys):
    if not known:
        Label.objects.all().delete()
    call_command("labels", "rename", "bug", "defect", "--reason", "one word")
    assert "5 tasks" in capsys.readouterr().out
    assert sorted(Task.objects.filter(version=2).values_list("labels", flat=True)) == [["defect", str(n)] for n in range(5)]
    assert list(Label.objects.values_list("name", flat=True)) == (["defect"] if known else [])
    assert events_of(many[0].pk)[1]["reason"] == "one word"
    call_command("labels", "rename", "bug", "defect")
    call_command("labels", "delete", "defect")
    assert set(map(tuple, Task.objects.values_list("labels", flat=True))) == {(str(n),) for n in range(5)}
    assert not Label.objects.exists()


def test_the_command_refuses_a_name_that_a_label_has(many):
    Label.objects.create(name="defect")
    with pytest.raises(CommandError, match="there is a label defect already"):
        call_command("labels", "rename", "bug", "defect")
    with pytest.raises(CommandError, match="expected 1 to 64 characters"):
        call_command("labels", "rename", "bug", "")
    assert Task.objects.filter(labels__contains=["bug"]).count() == 5
