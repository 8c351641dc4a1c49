"""The examples of the OpenAPI document are what is answered, and what the document says that it is."""

import json
import os

import jsonschema_rs
import pytest
import yaml

from taskpulse.api_documents import DIRECTORY
from tests import api_examples

COMMITTED = DIRECTORY / "examples.json"


@pytest.mark.django_db
def test_the_examples_are_what_is_answered():
    made = api_examples.written(api_examples.recorded())
    if os.environ.get("RECORD_EXAMPLES"):
        COMMITTED.write_text(made)
    assert made == COMMITTED.read_text(), "docs/api/examples.json differs from what is answered: run `make openapi`"


def _operations(document):
    return {operation["operationId"]: operation for operations in document["paths"].values() for operation in operations.values()}


def test_each_example_is_what_the_document_describes_and_no_json_answer_lacks_one():
    document = yaml.load((DIRECTORY / "openapi.yaml").read_text(), yaml.CSafeLoader)
    examples = json.loads(COMMITTED.read_text())
    lacking = []
    for name, operation in _operations(document).items():
        parts = {status: answer.get("content", {}) for status, answer in operation["responses"].items()}
        parts["request"] = operation.get("requestBody", {}).get("content", {})
        for part, content in parts.items():
            example = examples.get(name, {}).get(part)
            if example is None:
                lacking += [f"{name} {part}"] if part in {"request", "200", "201"} and "application/json" in content else []
                continue
            for media in (media for kind, media in content.items() if kind.endswith(("/json", "+json"))):
                schema = media["schema"] | {"components": document["components"]}
                errors = [error.message for error in jsonschema_rs.Draft202012Validator(schema).iter_errors(example)]
                assert errors == [], f"{name} {part}"
                assert media["examples"]["recorded"]["value"] == example
    assert lacking == [], "tests/api_examples.py sends no such request"
