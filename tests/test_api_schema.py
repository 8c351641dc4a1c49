"""The OpenAPI document describes what the API does."""

import json
import re
import warnings

import pytest
import yaml
from django.contrib.staticfiles import finders
from django.core.management import call_command
from openapi_spec_validator import OpenAPIV31SpecValidator

from audit.api import filters
from taskpulse.api_documents import DIRECTORY
from tasks.api import listing
from tasks.api.serializers import NOT_BLANK
from tests.api_client import Api, api, problem

pytestmark = pytest.mark.django_db


COMMITTED = DIRECTORY / "openapi.yaml"


@pytest.fixture(scope="module")
def schema():
    return yaml.load(COMMITTED.read_text(), yaml.CSafeLoader)


def test_the_committed_documents_are_what_the_code_makes(tmp_path):
    """Fails on any warning of the generator and on a document that is not valid OpenAPI, too."""
    call_command("api_documents", into=tmp_path)
    made, committed = (
        {path.relative_to(root): path.read_text() for kind in ("*.yaml", "schemas/*.json") for path in root.glob(kind)}
        for root in (tmp_path, DIRECTORY)
    )
    differing = [str(name) for name in made.keys() | committed.keys() if made.get(name) != committed.get(name)]
    assert differing == [], "docs/api differs from what the code makes: run `make openapi`"


def test_the_document_is_openapi_and_all_that_it_refers_to_is_there(schema):
    assert [(error.message, list(error.absolute_path)) for error in OpenAPIV31SpecValidator(schema).iter_errors()] == []
    assert list(OpenAPIV31SpecValidator(schema | {"info": {}}).iter_errors()) != []


def test_the_topics_document_is_asyncapi():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of its fields
        from asyncapi3.models import AsyncAPI3
    document = yaml.load((DIRECTORY / "asyncapi.yaml").read_text(), yaml.CSafeLoader)
    AsyncAPI3.model_validate(document)
    for wrong in ({"asyncapi": "2.6.0"}, {"info": {}}, {"topics": {}}, {"operations": {"x": {"action": "publish"}}}):
        with pytest.raises(ValueError, match="AsyncAPI3"):
            AsyncAPI3.model_validate(document | wrong)


def test_what_may_be_left_out_of_a_change_or_an_answer_has_no_default(schema):
    """A generated client would send a default, and so change what nobody named, or show it for what was not asked for."""
    schemas = schema["components"]["schemas"]
    sparse = {name for name in schemas if name.startswith("Patched") or name.endswith("Part")}
    assert {"PatchedLabelChangeRequest", "PatchedTaskChangeRequest", "TaskPart"} <= sparse
    found = [(name, member) for name in sparse for member, value in schemas[name]["properties"].items() if "default" in value]
    assert found == []


def test_every_operation_is_there_with_its_problems_and_its_security(schema):
    paths = schema["paths"]
    assert {path: sorted(operations) for path, operations in paths.items()} == {
        "/api/tasks": ["get", "post"],
        "/api/tasks/bulk": ["post"],
        "/api/tasks/{id}": ["delete", "get", "patch", "put"],
        "/api/tasks/{id}/audited": ["get"],
        "/api/tasks/{id}/comments": ["get", "post"],
        "/api/tasks/{id}/comments/{comment_id}": ["delete", "get", "patch", "put"],
        "/api/tasks/{id}/history": ["get"],
        "/api/tasks/{id}/subtasks": ["get"],
        "/api/tasks/{id}/watchers": ["get"],
        "/api/tasks/{id}/watchers/{user}": ["delete", "put"],
        "/api/labels": ["get", "post"],
        "/api/labels/{label}": ["delete", "get", "patch", "put"],
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
    parameters = {parameter["name"] for parameter in paths["/api/tasks"]["get"]["parameters"] if parameter["in"] == "query"}
    assert parameters == set(listing.PARAMETERS)
    assert {p["name"] for p in paths["/api/audit"]["get"]["parameters"]} == set(filters.PARAMETERS)
    assert {"version", "as_of", "fields", "expand"} < {p["name"] for p in paths["/api/tasks/{id}"]["get"]["parameters"]}


def test_the_described_task_is_the_one_that_is_answered(schema):
    described = schema["components"]["schemas"]["Task"]["properties"]
    task = api().create()
    assert set(task) == set(described)
    writable = set(schema["components"]["schemas"]["TaskRequest"]["properties"])
    from tasks.api.validation import OUTPUT_ONLY, RULES

    assert writable == set(RULES)
    assert set(described) == writable | OUTPUT_ONLY


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/"])
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/vnd.oai.openapi"),
        ("application/yaml", "application/yaml"),
        ("application/vnd.oai.openapi+json", "application/vnd.oai.openapi+json"),
        ("text/html, application/json;q=0.9", "application/json"),
    ],
)
def test_the_document_is_served_to_anybody_as_yaml_or_json(schema, path, accept, content_type):
    response = Api(None).get(path, Accept=accept)
    assert (response.status_code, response["Content-Type"], response["Vary"]) == (200, content_type, "Accept")
    if "json" in content_type:
        assert json.loads(response.content) == schema
    else:
        assert response.content == COMMITTED.read_bytes()
    again = Api(None).get(path, Accept=accept, If_None_Match=response["ETag"])
    assert (again.status_code, again.content) == (304, b"")


def test_the_document_is_neither_written_nor_shown_as_a_picture():
    assert "application/yaml" in problem(Api(None).get("/api/schema", Accept="image/png"), 406)["detail"]
    refused = Api(None).post({}, "/api/schema")
    assert problem(refused, 405)
    assert refused["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(("path", "shown"), [("/api/docs", "swagger-ui"), ("/api/docs/", "swagger-ui"), ("/api/redoc", "<redoc")])
def test_a_page_of_the_documentation_needs_no_other_host(path, shown):
    response = Api(None).get(path)
    assert response.status_code == 200
    page = response.content.decode()
    assert shown in page
    assert '"/api/schema"' in page
    sources = re.findall(r'(?:src|href|spec-url|data-document)="([^"]+)"', page)
    assert len(sources) >= 3
    assert all(source.startswith(("/static/", "/api/")) for source in sources)
    assert all(finders.find(source.removeprefix("/static/")) for source in sources if source.startswith("/static/"))
    # Nothing that a policy would have to let through by its content.
    assert not re.search(r"<style|<script(?! src=)|\son\w+=", page)
    assert "http" not in response["Content-Security-Policy"]
    assert response["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")


def test_the_published_pattern_knows_the_same_blanks_as_the_rule(schema):
    tell = re.compile(NOT_BLANK)
    assert [character for character in map(chr, range(0x110000)) if bool(tell.match(character)) != bool(character.strip())] == []
    for name, member in (("Task", "title"), ("Comment", "body")):
        assert schema["components"]["schemas"][name]["properties"][member]["pattern"] == NOT_BLANK
