"""What the OpenAPI document says of `/api/labels`."""

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from tasks.api import parsers
from tasks.api.schema import ETAG, IF_MATCH, IF_NONE_MATCH, PAGE, REASON, SAFE_RETRY, header, problems
from tasks.api.serializers import LabelChangeSerializer, LabelSerializer

_LABEL = OpenApiParameter(
    "label", str, OpenApiParameter.PATH, description="The label's id, or its name (percent-encoded, a slash as `%2F`)."
)
_CHANGE = LabelChangeSerializer(partial=True)
_change = {
    "summary": "Change a label",
    "description": "With another name it is renamed on the tasks that bear it, each a change with its event; where one bears "
    "both names, one is left. On more than 5,000 tasks it is refused (409): `manage.py labels rename` does that.",
    "parameters": [_LABEL, IF_MATCH, REASON, *SAFE_RETRY, ETAG],
    "responses": {200: LabelSerializer, **problems(400, 404, 409, 412, 413, 415, 422, 428)},
}

describe_labels = extend_schema_view(
    list=extend_schema(
        summary="List labels by name",
        description="Those that somebody gave a colour or a description. Tasks may bear others, too.",
        parameters=[*PAGE],
        responses={200: LabelSerializer(many=True), **problems(400)},
    ),
    create=extend_schema(
        summary="Give a label a colour and a description",
        description="Tasks may bear it already. It is a subject of its own in the audit log.",
        parameters=[
            REASON, *SAFE_RETRY, header("Location", "The new label, by its id.", [201]),
            header("ETag", 'The version in double quotes: `"1"`.', [201]),
        ],
        responses={201: LabelSerializer, **problems(400, 409, 413, 415, 422)},
    ),
    retrieve=extend_schema(
        summary="Read a label",
        parameters=[_LABEL, IF_NONE_MATCH, ETAG],
        responses={200: LabelSerializer, 304: OpenApiResponse(description="Not modified."), **problems(400, 404)},
    ),
    update=extend_schema(**_change, request=_CHANGE),
    partial_update=extend_schema(**_change, request=dict.fromkeys(parsers.PATCHES, _CHANGE)),
    destroy=extend_schema(
        summary="Delete a label, on the tasks too",
        description="On more than 5,000 tasks it is refused (409): `manage.py labels delete` does that.",
        parameters=[_LABEL, IF_MATCH, REASON, *SAFE_RETRY],
        responses={204: OpenApiResponse(description="Deleted."), **problems(400, 404, 409, 412, 422, 428)},
    ),
)  # fmt: skip
