"""The published descriptions of events and topics: true of what is made, refusing what is not, served as committed.

That every event of the whole suite keeps its schema is checked after each test (conftest.py)."""

import copy
import json

import jsonschema_rs
import pytest
import yaml
from cloudevents.core.bindings import kafka as cloudevents_kafka
from django.contrib.auth.models import User

from taskpulse import asyncapi, event_schemas
from taskpulse.api_documents import DIRECTORY
from tasks import events
from tasks.models import OutboxEvent, Task
from tests.api_client import Api, problem
from tests.event_contract import EventContract
from tests.test_golden_events import GOLDEN

CONTRACT = EventContract()
OURS = [json.loads(payload) for name, payload in GOLDEN.items() if "-task-" in name]


@pytest.mark.parametrize("kind", event_schemas.schemas())
def test_each_schema_is_one_and_is_served_under_the_name_that_events_give(kind):
    schema = event_schemas.schemas()[kind]
    jsonschema_rs.meta.validate(schema)
    assert schema["$id"] == f"urn:taskpulse:schema:{event_schemas.file_name(kind)}"
    response = Api(None).get(f"/api/schemas/{event_schemas.file_name(kind)}")
    assert (response.status_code, response["Content-Type"]) == (200, "application/schema+json")
    assert response.json() == schema


@pytest.mark.parametrize("name", ["nothing.json", "..%2Fopenapi.yaml", "%00"])
def test_no_other_file_is_served(name):
    assert problem(Api(None).get(f"/api/schemas/{name}"), 404)


@pytest.mark.parametrize("event", OURS, ids=lambda event: event["id"][-4:])
def test_what_is_recorded_already_keeps_the_schema_of_today(event):
    assert CONTRACT.violations(event) == []


def _broken(path: str, value) -> dict:
    event = copy.deepcopy(OURS[0])
    *parents, last = path.split("/")
    at = event
    for name in parents:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return event


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", None),
        ("time", "2026-01-15T10:30:00Z"),
        ("time", None),
        ("sequence", "1"),
        ("sequence", None),
        ("type", "task.moved"),
        ("source", "/elsewhere"),
        ("subject", "comment/1"),
        ("taskid", "1"),
        ("tenantid", "north"),
        ("data/nonce", "00"),
        ("data/task/title", None),
        ("data/task/priority", "urgent"),
        ("data/task/labels", [1]),
        ("data/task/version", "1"),
        ("data/task/assignee", "ana"),
        ("data/task/colour", "red"),
        ("data/changes/title", "new"),
        ("data/changes/version", {"from": None, "to": 1}),
    ],
)
def test_what_is_no_event_of_ours_is_found(path, value):
    assert CONTRACT.violations(_broken(path, value))


def test_a_consumer_of_the_published_schema_passes_over_what_it_does_not_know():
    published = jsonschema_rs.validator_for(event_schemas.schemas()["task"])
    assert published.is_valid(_broken("data/task/colour", "red"))
    assert published.is_valid(_broken("tenantid", "north"))


@pytest.mark.django_db
def test_the_cloudevents_sdk_reads_our_messages():
    ana = User.objects.create(username="ana")
    task = Task.objects.create(title="Größe", assignee=ana)
    payload = bytes(OutboxEvent.objects.get(subject_id=str(task.pk)).payload)
    sent = cloudevents_kafka.KafkaMessage({"content-type": events.CONTENT_TYPE}, str(task.pk).encode(), payload)
    event = cloudevents_kafka.from_kafka_event(sent)
    written = json.loads(payload)
    assert event.get_data() == written.pop("data")
    read = event.get_attributes()
    assert events.rfc3339(read.pop("time")) == written.pop("time")
    assert read.pop("partitionkey", str(task.pk)) == str(task.pk)
    assert read == written
    assert (DIRECTORY / "schemas" / read["dataschema"].removeprefix("urn:taskpulse:schema:")).is_file()


def test_the_topics_document_names_each_message_once_and_its_schema():
    document = asyncapi.document()
    messages = document["components"]["messages"]
    assert len(messages) == len(event_schemas.schemas()) + 1
    for message in messages.values():
        if "schema" in message["payload"]:
            assert (DIRECTORY / message["payload"]["schema"]["$ref"]).is_file()
    for channel in document["channels"].values():
        for reference in channel["messages"].values():
            assert reference["$ref"].removeprefix("#/components/messages/") in messages


@pytest.mark.parametrize(("accept", "content_type"), [("*/*", "application/vnd.aai.asyncapi"), ("application/json",) * 2])
def test_the_topics_document_is_served(accept, content_type):
    response = Api(None).get("/api/asyncapi", Accept=accept)
    assert (response.status_code, response["Content-Type"]) == (200, content_type)
    assert yaml.safe_load(response.content) == asyncapi.document()
