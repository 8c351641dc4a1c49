"""What drf-spectacular is told of this API beside its views: how one signs in, shapes that no serializer has, paths."""

import json
from pathlib import Path

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.plumbing import get_lib_doc_excludes

from tasks.api.serializers import PersonSerializer

_EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "api" / "examples.json"


class BearerScheme(OpenApiAuthenticationExtension):
    target_class = "tasks.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema):
        return {"type": "http", "scheme": "bearer", "description": "An API token, `tp_…`."}


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = "tasks.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema):
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": "sessionid",
            "description": "The console's session; unsafe methods need X-CSRFToken.",
        }


class AssigneeShape(OpenApiSerializerFieldExtension):
    """Shown as an object; a body may give the bare id, and a change some of the object's members."""

    target_class = "tasks.api.serializers.AssigneeField"

    def map_serializer_field(self, auto_schema, direction):
        some = direction == "request" and self.target.parent.partial
        person = auto_schema.resolve_serializer(PersonSerializer(partial=some), direction).ref
        ways = [person, {"type": "null"}]
        if direction == "request":
            ways += [{"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, {"type": "string", "pattern": "^[0-9]{1,10}$"}]
        return {"oneOf": ways}


def without_trailing_slash(endpoints, **_):
    """A hook of drf-spectacular before its work: the paths as people write them; both forms are served."""
    return [(path.rstrip("/"), *rest) for path, *rest in endpoints]


def strict_bodies(result, **_):
    """A hook of drf-spectacular after its work: a body is required, and what it has no field for is refused; what answers with
    the same document answers with all of it."""
    schemas = result["components"]["schemas"]
    for name, schema in schemas.items():
        if name.endswith("Request") and schema.get("type") == "object":
            schema["additionalProperties"] = False
            if answered := schemas.get(name.removesuffix("Request")):
                answered["required"] = sorted(answered["properties"])
    for operations in result["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:
                operation["requestBody"]["required"] = True
    return result


_NUMBER = {"type": "integer", "minimum": 0}
# What `expand` shows instead of a member, or beside the others.
_EXPANDED = {
    "labels": {
        "type": "array",
        "description": "Names; with `expand=labels` objects.",
        "items": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["colour", "description", "name"],
                    "properties": {
                        "colour": {"type": ["string", "null"], "description": "Null for one that nobody described."},
                        "description": {"type": "string"},
                        "name": {"type": "string"},
                    },
                },
            ]
        },
    },
    "progress": {
        "type": "object",
        "description": "With `expand=progress`: of the subtasks.",
        "required": ["completed", "total"],
        "properties": {"completed": _NUMBER, "total": _NUMBER},
    },
    "subtasks": {
        "type": "array",
        "description": "With `expand=subtasks`: the oldest first.",
        "items": {"$ref": "#/components/schemas/Task"},
    },
}


def sparse_answers(result, **_):
    """A hook of drf-spectacular after its work: where `fields` chooses the members of a document and `expand` shows some in
    full, an answer may have them alone, and in that form."""
    schemas = result["components"]["schemas"]
    for operations in result["paths"].values():
        for operation in operations.values():
            if not any(parameter["name"] == "fields" for parameter in operation.get("parameters", [])):
                continue
            answer = operation["responses"]["200"]["content"]["application/json"]
            holder, key = (answer["schema"], "items") if "items" in answer["schema"] else (answer, "schema")
            whole = holder[key]
            name = whole["$ref"].rpartition("/")[2]
            part = {member: value for member, value in schemas[name].items() if member != "required"}
            # What is not shown is not what a new task has: no defaults.
            shown = {name: {**value} for name, value in (part["properties"] | _EXPANDED).items()}
            for value in shown.values():
                value.pop("default", None)
            schemas[f"{name}Part"] = part | {"description": "With `fields` or `expand`.", "properties": shown}
            holder[key] = {"anyOf": [whole, {"$ref": f"#/components/schemas/{name}Part"}]}
    return result


def undescribed() -> list:
    """Classes whose docstrings tell a reader of the code something, and not a caller of the API."""
    from tasks.api.views import ApiViewSet

    return [*get_lib_doc_excludes(), ApiViewSet]


def recorded_examples(result, **_):
    """A hook of drf-spectacular after its work: requests and answers as they were recorded (tests/api_examples.py)."""
    examples = json.loads(_EXAMPLES.read_text())
    for operations in result["paths"].values():
        for operation in operations.values():
            parts = {**operation["responses"], "request": operation.get("requestBody", {})}
            for part, example in examples.get(operation["operationId"], {}).items():
                for kind, media in parts.get(part, {}).get("content", {}).items():
                    if kind.endswith(("/json", "+json")):
                        media["examples"] = {"recorded": {"value": example}}
    return result
