"""Labels: a table that decorates what tasks bear, its changes captured, renamed and deleted on the tasks too."""

import json

import pytest
import rfc8785
from django.db import IntegrityError, connection, transaction
from django.db.utils import DataError

from tasks.models import Label, OutboxEvent
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
