"""What the OpenAPI document says of `/api/tasks`."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from tasks.api import members, parsers, search, streams
from tasks.api.ordering import ORDERINGS
from tasks.api.schema import (
    CREATED_ETAG,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    ITEM,
    PAGE,
    PERSON_OR_WORD,
    REASON,
    SAFE_RETRY,
    TASK_ID,
    header,
    problems,
    several,
)
from tasks.api.serializers import TaskChangeSerializer, TaskSerializer
from tasks.models import CATEGORY_LENGTH, LABEL_LENGTH, Priority, Status

_ONE_TASK = {"type": "string", "format": "uuid"}
_LABEL = {"type": "string", "pattern": ITEM, "maxLength": LABEL_LENGTH}
_TIMES = {"due": "is due", "created": "was created", "updated": "was last changed", "completed": "was completed"}
_SEARCH = OpenApiParameter(
    "q",
    str,
    description="Words in title, labels, category, summary or description, without regard to case and accents: all of them; "
    '`"some words"` one after the other; `-word` none of it; `one or another` either; `invo*` what a word begins with, and so '
    f"does the last word. Best matches first unless `ordering` says otherwise, among the newest {search.MATCHES:,} that match, "
    f"where the list is counted or given as a whole too; phrases and `-word` are looked at in the newest {search.LOOKED_AT:,} that "
    "hold the words. Later pages show what the first one found. Without a word to be found nothing is.",
)
_FILTERS = [
    _SEARCH,
    several("status", "The status.", {"type": "string", "enum": list(Status.values)}),
    several("priority", "The priority.", {"type": "string", "enum": list(Priority.values)}),
    several("assignee", "The id of a person, `me` or `none`.", PERSON_OR_WORD),
    several("created_by", "The id of a person, `me`, or `none` for what nobody signed in created.", PERSON_OR_WORD),
    several("label", "A label.", _LABEL),
    several("label_all", "A label.", _LABEL, "all of them"),
    several("parent", "The id of the task that it is a subtask of, or `none`.", {"anyOf": [_ONE_TASK, {"const": "none"}]}),
    several(
        "category",
        "The category; empty: those without one.",
        {"type": "string", "pattern": f"^$|{ITEM}", "maxLength": CATEGORY_LENGTH},
    ),
    several("watching", "The id of a person who watches it, or `me`.", {"type": "string", "pattern": "^(me|[0-9]{1,18})$"}),
    OpenApiParameter("overdue", bool, description="Whether it is due in the past and not completed."),
    *(
        OpenApiParameter(f"{name}_{side}", OpenApiTypes.DATETIME, description=f"It {what} {when}; RFC 3339 with a zone.")
        for name, what in _TIMES.items()
        for side, when in (("before", "before then"), ("after", "then or later"))
    ),
]
_ORDERING = OpenApiParameter(
    "ordering",
    {"type": "string", "enum": list(ORDERINGS)},
    description="By this and then by id; `-`: the greatest first. What has no such time comes last either way. `-priority`: high "
    "ones first, of those the newest. Left out: by the time that a filter looks at, else by `created_at`, newest first.",
)
_MEMBERS = [
    several("fields", "The members to show.", {"type": "string", "enum": list(members.FIELDS)}, "these alone"),
    several(
        "expand",
        "Shown in full: the assignee with `full_name`; `labels` with colour and description; `progress`, how many subtasks there "
        f"are and are completed; `subtasks`, the {members.SUBTASKS} oldest (then `limit` is "
        f"{members.MOST_WITH_SUBTASKS} at most).",
        {"type": "string", "enum": list(members.EXPANDED)},
        "all of them",
    ),
]
_STREAM = OpenApiResponse(OpenApiTypes.STR, description="All that match: a task a line, or a row.")
_COUNT = [
    OpenApiParameter(
        "Prefer",
        str,
        OpenApiParameter.HEADER,
        description="`count=exact` or `count=estimated` (RFC 7240): how many tasks the list has, on all of its pages. An exact "
        "count of many takes long, and is refused with 503 if too long; an estimate is the planner's.",
    ),
    header("X-Total-Count", "With `Prefer: count=…`: how many there are.", [200]),
    header("Preference-Applied", "`count=exact` or `count=estimated`, where it was asked for.", [200]),
]
_LOCATION = header("Location", "The new task.", [201])

_change = {
    "summary": "Change the fields given",
    "parameters": [TASK_ID, IF_MATCH, REASON, *SAFE_RETRY, ETAG],
    "responses": {200: TaskSerializer, **problems(400, 404, 409, 412, 413, 415, 422, 428)},
}
_CHANGE = TaskChangeSerializer(partial=True)

describe_tasks = extend_schema_view(
    list=extend_schema(
        summary="List tasks, newest first",
        description="A task is shown that every filter matches. As CSV or JSON Lines (`Accept`) it is given as a whole, without "
        "pages: `limit` may be any number or left out, and an answer that was broken off lacks the end that HTTP/1.1 gives a "
        "whole one. In CSV labels are separated by commas, one that holds a comma or a quote in double quotes; a text that "
        "begins with `=`, `+`, `-`, `@`, a tab, a line break or an apostrophe has an apostrophe before it.",
        parameters=[*_FILTERS, _ORDERING, *_MEMBERS, *PAGE, *_COUNT],
        responses={
            (200, "application/json"): TaskSerializer(many=True),
            **{(200, kind): _STREAM for kind in streams.FORMS},
            **problems(400, 414, 429),
        },
    ),
    create=extend_schema(
        summary="Create a task",
        parameters=[REASON, *SAFE_RETRY, _LOCATION, CREATED_ETAG],
        responses={201: TaskSerializer, **problems(400, 409, 413, 415, 422)},
    ),
    retrieve=extend_schema(
        summary="Read a task",
        description="With `version` or `as_of` as it was then, deleted tasks too; with `fields` or `expand` what they name: "
        "each without ETag.",
        parameters=[
            TASK_ID,
            OpenApiParameter(
                "version", {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}, description="The state of this version."
            ),
            OpenApiParameter("as_of", OpenApiTypes.DATETIME, description="The state at this moment."),
            *_MEMBERS,
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
        parameters=[TASK_ID, IF_MATCH, REASON, *SAFE_RETRY],
        responses={204: OpenApiResponse(description="Deleted."), **problems(400, 404, 409, 412, 422, 428)},
    ),
)

describe_subtasks = extend_schema_view(
    list=extend_schema(
        operation_id="tasks_subtasks_list",
        summary="List a task's subtasks, newest first",
        description="As the list of tasks with `parent`. How far they are, `expand=progress` says of the task itself.",
        parameters=[TASK_ID, *(one for one in _FILTERS if one.name != "parent"), _ORDERING, *_MEMBERS, *PAGE],
        responses={200: TaskSerializer(many=True), **problems(400, 404, 414)},
    ),
)
