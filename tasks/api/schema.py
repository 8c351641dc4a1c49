"""What views describe themselves with in the OpenAPI document: problems, headers and parameters that several have."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from tasks.api.pagination import LIMIT, MOST


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
