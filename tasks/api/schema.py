"""What the OpenAPI document says beyond the serializers: parameters, headers, problems, security schemes."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import serializers

from tasks.api.pagination import LIMIT, MOST
from tasks.api.serializers import PersonSerializer, TaskSerializer
from tasks.models import LABEL_LENGTH, Priority, Status


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
    """Shown as an object; a body may give the bare id."""

    target_class = "tasks.api.serializers.AssigneeField"

    def map_serializer_field(self, auto_schema, direction):
        person = auto_schema.resolve_serializer(PersonSerializer, direction).ref
        ways = [person, {"type": "null"}]
        if direction == "request":
            ways += [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+$"}]
        return {"oneOf": ways}


def without_trailing_slash(result, generator, request, public):
    """A hook of drf-spectacular: the paths as people write them; both forms are served."""
    result["paths"] = {path.rstrip("/"): operations for path, operations in result["paths"].items()}
    return result


class ProblemErrorSerializer(serializers.Serializer):
    pointer = serializers.CharField(required=False, help_text="JSON Pointer into the body, as a URI fragment (422).")
    parameter = serializers.CharField(required=False, help_text="The query parameter (400).")
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer):
    """RFC 9457."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    request_id = serializers.CharField(required=False)
    errors = ProblemErrorSerializer(many=True, required=False)


_PROBLEMS = {
    400: "Malformed JSON, or an unknown or wrong query parameter, which it names with the valid ones.",
    401: "Not signed in, or the token is not valid.",
    403: "The role does not allow this, or the CSRF token is missing.",
    404: "There is no such resource.",
    406: "The Accept header excludes application/json.",
    409: "The task was changed at the same time.",
    410: "What was asked for was erased from the audit log.",
    412: "If-Match names a version that is not the present one.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The body has wrong values; `errors` points at each.",
    429: "As many of these as there may be are under way; try again after Retry-After seconds.",
    503: "The database cannot be used; try again after Retry-After seconds.",
}
_READ = (401, 403, 406, 503)


def problems(*statuses: int) -> dict:
    return {
        (status, "application/problem+json"): OpenApiResponse(ProblemSerializer, description=_PROBLEMS[status])
        for status in sorted({*_READ, *statuses})
    }


def header(name: str, description: str, statuses: list[int]) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.HEADER, description=description, response=statuses)


ETAG = header("ETag", 'The version in double quotes: `"4"`.', [200])
LINK = header("Link", 'RFC 8288: `rel="next"` leads to older rows, `rel="prev"` to newer ones.', [200])
IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description='Write only if this is the version: `"4"`.')
IF_NONE_MATCH = OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER, description='304 if this is the version: `"4"`.')
REASON = OpenApiParameter("X-Change-Reason", str, OpenApiParameter.HEADER, description="Why; the change's event says so.")
TASK_ID = OpenApiParameter("id", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The task's id.")
PAGE = [
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT}, description="Rows a page."),
    OpenApiParameter("cursor", str, description="Opaque; from a Link header."),
    LINK,
]


def several(name: str, description: str, items: dict) -> OpenApiParameter:
    schema = {"type": "array", "items": items, "minItems": 1}
    return OpenApiParameter(name, schema, style="form", explode=False, description=description + " Several by commas: any of them.")


_FILTERS = [
    several("priority", "The priority.", {"type": "string", "enum": list(Priority.values)}),
    several("status", "The status.", {"type": "string", "enum": list(Status.values)}),
    several("assignee", "The id of a person, `me` or `none`.", {"type": "string"}),
    several("label", "A label.", {"type": "string", "minLength": 1, "maxLength": LABEL_LENGTH}),
]
_LOCATION = header("Location", "The new task.", [201])
_CREATED_ETAG = header("ETag", 'The version in double quotes: `"1"`.', [201])

_update = extend_schema(
    summary="Change the fields given",
    request=TaskSerializer(partial=True),
    parameters=[TASK_ID, IF_MATCH, REASON, ETAG],
    responses={200: TaskSerializer, **problems(400, 404, 409, 412, 413, 415, 422)},
)

describe_tasks = extend_schema_view(
    list=extend_schema(
        summary="List tasks, newest first",
        parameters=[*_FILTERS, *PAGE],
        responses={200: TaskSerializer(many=True), **problems(400)},
    ),
    create=extend_schema(
        summary="Create a task",
        parameters=[REASON, _LOCATION, _CREATED_ETAG],
        responses={201: TaskSerializer, **problems(400, 413, 415, 422)},
    ),
    retrieve=extend_schema(
        summary="Read a task",
        description="With `version` or `as_of` as it was then, deleted tasks too, without ETag.",
        parameters=[
            TASK_ID,
            OpenApiParameter("version", {"type": "integer", "minimum": 1}, description="The state of this version."),
            OpenApiParameter("as_of", OpenApiTypes.DATETIME, description="The state at this moment."),
            IF_NONE_MATCH,
            ETAG,
        ],
        responses={200: TaskSerializer, 304: OpenApiResponse(description="Not modified."), **problems(400, 404, 410)},
    ),
    update=_update,
    partial_update=_update,
    destroy=extend_schema(
        summary="Delete a task and its subtasks",
        parameters=[TASK_ID, IF_MATCH, REASON],
        responses={204: OpenApiResponse(description="Deleted."), **problems(400, 404, 409, 412)},
    ),
)
