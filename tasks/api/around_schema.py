"""What the OpenAPI document says of a task's comments and watchers."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from tasks.api import parsers
from tasks.api.schema import CREATED_ETAG, ETAG, IF_MATCH, IF_NONE_MATCH, PAGE, REASON, SAFE_RETRY, TASK_ID, header, problems
from tasks.api.serializers import CommentSerializer, WatcherSerializer

_COMMENT_ID = OpenApiParameter("comment_id", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The comment's id.")
_PERSON = OpenApiParameter(
    "user", {"type": "string", "pattern": "^(me|[0-9]+)$"}, OpenApiParameter.PATH, description="The id of a person, or `me`."
)
_CHANGE = CommentSerializer(partial=True)
_change = {
    "summary": "Change a comment",
    "description": "By its author, or an admin.",
    "parameters": [TASK_ID, _COMMENT_ID, IF_MATCH, REASON, *SAFE_RETRY, ETAG],
    "responses": {200: CommentSerializer, **problems(400, 404, 409, 412, 413, 415, 422, 428)},
}

describe_comments = extend_schema_view(
    list=extend_schema(
        operation_id="tasks_comments_list",
        summary="List a task's comments, newest first",
        parameters=[TASK_ID, *PAGE],
        responses={200: CommentSerializer(many=True), **problems(400, 404)},
    ),
    create=extend_schema(
        operation_id="tasks_comments_create",
        summary="Comment on a task",
        description="The comment is a subject of its own in the audit log; the task's version stays as it is.",
        parameters=[
            TASK_ID, REASON, *SAFE_RETRY, header("Location", "The new comment.", [201]),
            CREATED_ETAG,
        ],
        responses={201: CommentSerializer, **problems(400, 404, 409, 413, 415, 422)},
    ),
    retrieve=extend_schema(
        operation_id="tasks_comments_retrieve",
        summary="Read a comment",
        parameters=[TASK_ID, _COMMENT_ID, IF_NONE_MATCH, ETAG],
        responses={200: CommentSerializer, 304: OpenApiResponse(description="Not modified."), **problems(400, 404)},
    ),
    update=extend_schema(**_change, operation_id="tasks_comments_update", request=_CHANGE),
    partial_update=extend_schema(
        **_change, operation_id="tasks_comments_partial_update", request=dict.fromkeys(parsers.PATCHES, _CHANGE)
    ),
    destroy=extend_schema(
        operation_id="tasks_comments_destroy",
        summary="Delete a comment",
        description="By its author, or an admin.",
        parameters=[TASK_ID, _COMMENT_ID, IF_MATCH, REASON, *SAFE_RETRY],
        responses={204: OpenApiResponse(description="Deleted."), **problems(400, 404, 409, 412, 422, 428)},
    ),
)  # fmt: skip

describe_watchers = extend_schema_view(
    list=extend_schema(
        operation_id="tasks_watchers_list",
        summary="List who watches a task, newest first",
        parameters=[TASK_ID, *PAGE],
        responses={200: WatcherSerializer(many=True), **problems(400, 404)},
    ),
    update=extend_schema(
        operation_id="tasks_watchers_update",
        summary="Watch a task",
        description="May be repeated. Whoever reads tasks may watch one; who writes them may name others. A body is ignored.",
        parameters=[TASK_ID, _PERSON, REASON, *SAFE_RETRY],
        request=None,
        responses={
            200: OpenApiResponse(WatcherSerializer, description="They did already."), 201: WatcherSerializer,
            **problems(400, 404, 409, 422),
        },
    ),
    destroy=extend_schema(
        operation_id="tasks_watchers_destroy",
        summary="Watch a task no more",
        description="May be repeated: nobody who does not watch is a 404.",
        parameters=[TASK_ID, _PERSON, REASON, *SAFE_RETRY],
        responses={204: OpenApiResponse(description="They do not watch it."), **problems(400, 404, 409, 422)},
    ),
)  # fmt: skip
