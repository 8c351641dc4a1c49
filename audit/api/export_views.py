"""`/api/audit/export`: entries with their proofs as a stream, to be checked offline (docs/verification.md)."""

import threading

from django.conf import settings
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from audit.api.log_views import AnyRepresentation
from audit.export import CONTENT_TYPE, Selection, bundle
from taskpulse.errors import InvalidQuery, Problem
from taskpulse.roles import Right
from tasks.api.filters import refuse_unknown, wrong_value
from tasks.api.schema import problems
from tasks.api.validation import Wrong, due_at, task_id
from tasks.api.views import ApiViewSet

# At once in a process: each holds a thread of the web role as long as its client takes.
_MOST = 2
_places = threading.BoundedSemaphore(_MOST)
_GREATEST_SEQ = 2**62
_ACTOR_LENGTH = 200


class _Stream:
    """Gives its place back when it is closed, which Django does with the response, be it read to its end or not."""

    def __init__(self, lines):
        self._lines, self._given_back = lines, threading.Lock()

    def __iter__(self):
        return self._lines

    def close(self) -> None:
        self._lines.close()
        if self._given_back.acquire(blocking=False):
            _places.release()

    # A response that nobody answers with, as after a fault on its way out.
    __del__ = close


class ExportViewSet(ApiViewSet):
    content_negotiation_class = AnyRepresentation
    rights = {"GET": Right.READ_AUDIT}

    @extend_schema(
        operation_id="audit_export",
        summary="Export entries with their proofs",
        description="A bundle as JSON Lines, which deploy/verify/taskpulse_verify.py checks offline: a `log` line with the "
        "checkpoint, an `entry` line with the event and its C2SP tlog-proof for each entry, and an `end` line. It takes half of "
        "the time that a request may; go on with `from` at the `next_seq` of the end line. Entries that no checkpoint covers "
        "yet are not in it. 429 while others are being exported.",
        parameters=[
            OpenApiParameter("task", OpenApiTypes.UUID, description="Of this task, and what belongs to it."),
            OpenApiParameter(
                "actor",
                {"type": "string", "minLength": 1, "maxLength": _ACTOR_LENGTH},
                description="By this actor, as entries show the id.",
            ),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="Changed then or later."),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Changed before."),
            OpenApiParameter(
                "from", {"type": "integer", "minimum": 1, "maximum": _GREATEST_SEQ}, description="From this `seq` on."
            ),
        ],
        responses={(200, CONTENT_TYPE): OpenApiResponse(OpenApiTypes.STR, description="The bundle."), **problems(400, 429)},
    )
    def retrieve(self, request):
        selection = _selection(request._request.GET)
        if not _places.acquire(blocking=False):
            raise Problem(429, f"{_MOST} exports are under way; try again later.", headers={"Retry-After": "10"})
        stream = _Stream(bundle(selection, seconds=settings.WEB_REQUEST_SECONDS / 2))
        response = StreamingHttpResponse(stream, content_type=CONTENT_TYPE)
        response["Content-Disposition"] = f'attachment; filename="audit-{selection.from_seq}.jsonl"'
        response["Cache-Control"] = "no-store"
        return response


def _seq(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= _GREATEST_SEQ else None


_RULES = {
    "task": (task_id, "the id of a task"),
    "actor": (lambda text: text if 1 <= len(text) <= _ACTOR_LENGTH and "\x00" not in text else None, "the id of an actor"),
    "since": (due_at, "a time with its zone, as 2026-01-15T10:30:00Z"),
    "until": (due_at, "a time with its zone, as 2026-01-15T10:30:00Z"),
    "from": (_seq, "the number of an entry"),
}


def _selection(query) -> Selection:
    """What a query string asks for. Raises InvalidQuery."""
    refuse_unknown(query, tuple(_RULES))
    found, errors = {}, []
    for name, (rule, expected) in _RULES.items():
        values = query.getlist(name)
        if len(values) > 1:
            errors.append({"parameter": name, "detail": f"{name}: given more than once."})
        for text in values[:1]:
            try:
                taken = rule(text)
            except Wrong:
                taken = None
            if taken is None:
                errors.append(wrong_value(name, text, expected))
            found["from_seq" if name == "from" else name] = taken
    if errors:
        raise InvalidQuery(errors)
    return Selection(**found)
