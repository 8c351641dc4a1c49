"""What views describe themselves with in the OpenAPI document: problems, headers and parameters that several have."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from taskpulse.problem_types import PATH, TYPES
from tasks.api.filters import MOST_VALUES
from tasks.api.pagination import LIMIT, MOST


class ProblemErrorSerializer(serializers.Serializer):
    pointer = serializers.CharField(required=False, help_text="JSON Pointer into the body, as a URI fragment (422).")
    parameter = serializers.CharField(required=False, help_text="The query parameter (400).")
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer):
    """RFC 9457."""

    type = serializers.CharField(help_text=f"`{PATH}/…`: a path of this service, where a page says what it means and what to do.")
    title = serializers.CharField(help_text="The same for each problem of the type, in the caller's language.")
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="What is wrong this time, in the caller's language.")
    request_id = serializers.CharField(help_text="As in X-Request-ID; the server's log has it.")
    errors = ProblemErrorSerializer(many=True, required=False)


_READ = (401, 403, 406, 503)


def _meanings(status: int) -> str:
    return " ".join(f"`{found.name}`: {found.meaning}" for found in TYPES if found.status == status)


def problems(*statuses: int) -> dict:
    return {
        (status, "application/problem+json"): OpenApiResponse(ProblemSerializer, description=_meanings(status))
        for status in sorted({*_READ, *statuses})
    }


def header(name: str, description: str, statuses: list[int]) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.HEADER, description=description, response=statuses)


_TAG = "The version and, where people are shown, a checksum of their names"
ETAG = header("ETag", f'{_TAG}: `"4-1c9f03ab"`.', [200])
CREATED_ETAG = header("ETag", f'{_TAG}: `"1-1c9f03ab"`.', [201])
LINK = header("Link", 'RFC 8288: `rel="next"` leads to older rows, `rel="prev"` to newer ones.', [200])
# RFC 9110 §13.1: entity tags, which need not be ours, or `*`.
_TAGS = {"type": "string", "pattern": r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'}
IF_MATCH = OpenApiParameter(
    "If-Match", _TAGS, OpenApiParameter.HEADER, description='Write only if this is the version: `"4"`, or an ETag of it.'
)
IF_NONE_MATCH = OpenApiParameter("If-None-Match", _TAGS, OpenApiParameter.HEADER, description="304 if this is the ETag.")
REASON = OpenApiParameter("X-Change-Reason", str, OpenApiParameter.HEADER, description="Why; the change's event says so.")
_BARE, _QUOTED = r"[!#-+\--:<-\[\]-~]{1,255}", r'"([ !#-\[\]-~]|\\["\\]){1,255}"'
SAFE_RETRY = [
    OpenApiParameter(
        "Idempotency-Key",
        {"type": "string", "pattern": f"^({_BARE}|{_QUOTED})$"},
        OpenApiParameter.HEADER,
        description="Makes the request safe to send again for 24 hours: the same is answered as before and not done again. "
        "A new one for each new request (a UUID, say), in double quotes or bare.",
    ),
    header("Idempotent-Replayed", "`true`: it was done before, and this is what was answered then.", [200, 201, 204]),
]
TASK_ID = OpenApiParameter("id", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The task's id.")
PAGE = [
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT}, description="Rows a page."),
    OpenApiParameter("cursor", str, description="Opaque; from a Link header."),
    LINK,
]


# The id of a person, or a word that stands for one.
PERSON_OR_WORD = {"type": "string", "pattern": "^(me|none|[0-9]{1,18})$"}


# In a list by commas: a text that holds nothing which RFC 4180 would put in quotes, and no space at its ends.
ITEM = r'^[^ ",\r\n]([^",\r\n]*[^ ",\r\n])?$'


def several(name: str, description: str, items: dict, meaning: str = "any of them") -> OpenApiParameter:
    schema = {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_VALUES}
    return OpenApiParameter(name, schema, style="form", explode=False, description=f"{description} Several by commas: {meaning}.")
