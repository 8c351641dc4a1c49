"""The OpenAPI document describes what the API does."""

import json

import pytest
from django.core.management import call_command

from audit.api import filters
from tests.api_client import Api, api

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """Fails on any warning of the generator and on a document that is not valid OpenAPI."""
    path = tmp_path_factory.mktemp("schema") / "openapi.json"
    call_command("spectacular", validate=True, fail_on_warn=True, format="openapi-json", file=str(path))
    return json.loads(path.read_text())


def test_every_operation_is_there_with_its_problems_and_its_security(schema):
    paths = schema["paths"]
    assert {path: sorted(operations) for path, operations in paths.items()} == {
        "/api/tasks": ["get", "post"],
        "/api/tasks/{id}": ["delete", "get", "patch", "put"],
        "/api/tasks/{id}/audited": ["get"],
        "/api/tasks/{id}/history": ["get"],
        "/api/audit": ["get"],
        "/api/audit/export": ["get"],
        "/api/audit/{event_id}": ["get"],
        "/api/audit/{event_id}/proof": ["get"],
    }
    for operations in paths.values():
        for operation in operations.values():
            assert {"401", "403", "503"} <= set(operation["responses"])
            assert [list(way) for way in operation["security"]] == [["bearer"], ["session"]]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], status
    assert {"422", "415", "413"} <= set(paths["/api/tasks"]["post"]["responses"])
    assert "412" in paths["/api/tasks/{id}"]["put"]["responses"]
    parameters = {parameter["name"] for parameter in paths["/api/tasks"]["get"]["parameters"]}
    assert parameters == {"priority", "status", "assignee", "label", "limit", "cursor"}
    assert {p["name"] for p in paths["/api/audit"]["get"]["parameters"]} == set(filters.PARAMETERS)
    assert {"version", "as_of"} < {p["name"] for p in paths["/api/tasks/{id}"]["get"]["parameters"]}


def test_the_described_task_is_the_one_that_is_answered(schema):
    described = schema["components"]["schemas"]["Task"]["properties"]
    task = api().create()
    assert set(task) == set(described)
    writable = set(schema["components"]["schemas"]["TaskRequest"]["properties"])
    from tasks.api.validation import OUTPUT_ONLY, RULES

    assert writable == set(RULES)
    assert set(described) == writable | OUTPUT_ONLY


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("application/vnd.oai.openapi+json", "application/vnd.oai.openapi+json"), ("application/json", "application/json"),
     ("*/*", "application/vnd.oai.openapi")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/"])
def test_the_schema_is_served_to_anybody(path, accept, content_type):
    response = Api(None).get(path, Accept=accept)
    assert response.status_code == 200
    assert response["Content-Type"].startswith(content_type)


def test_the_documentation_needs_no_other_host():
    response = Api(None).get("/api/docs")
    assert response.status_code == 200
    page = response.content.decode()
    assert "swagger-ui" in page
    assert "/api/schema" in page
    for attribute in ('src="http', 'href="http'):
        assert attribute not in page
