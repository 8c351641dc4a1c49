"""What the OpenAPI document says of `/api/tasks`."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from tasks.api import parsers
from tasks.api.schema import ETAG, IF_MATCH, IF_NONE_MATCH, PAGE, REASON, TASK_ID, header, problems, several
from tasks.api.serializers import TaskChangeSerializer, TaskSerializer
from tasks.models import LABEL_LENGTH, Priority, Status

_FILTERS = [
    several("priority", "The priority.", {"type": "string", "enum": list(Priority.values)}),
    several("status", "The status.", {"type": "string", "enum": list(Status.values)}),
    several("assignee", "The id of a person, `me` or `none`.", {"type": "string"}),
    several("label", "A label.", {"type": "string", "minLength": 1, "maxLength": LABEL_LENGTH}),
]
_LOCATION = header("Location", "The new task.", [201])
_CREATED_ETAG = header("ETag", 'The version in double quotes: `"1"`.', [201])

_change = {
    "summary": "Change the fields given",
    "parameters": [TASK_ID, IF_MATCH, REASON, ETAG],
    "responses": {200: TaskSerializer, **problems(400, 404, 409, 412, 413, 415, 422)},
}
_CHANGE = TaskChangeSerializer(partial=True)

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
    update=extend_schema(**_change, request=_CHANGE),
    partial_update=extend_schema(
        **_change,
        description="JSON Merge Patch (RFC 7396), which plain JSON means too: null removes a field, so that it is as in a task "
        "that was created without it; `assignee` merges by its members; `labels` are replaced as a whole.",
        request=dict.fromkeys(parsers.PATCHES, _CHANGE),
    ),
    destroy=extend_schema(
        summary="Delete a task and its subtasks",
        parameters=[TASK_ID, IF_MATCH, REASON],
        responses={204: OpenApiResponse(description="Deleted."), **problems(400, 404, 409, 412)},
    ),
)
