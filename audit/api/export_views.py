"""`/api/audit/export`: entries with their proofs as a stream, to be checked offline (docs/verification.md)."""

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from audit.api.log_views import AnyRepresentation
from audit.export import CONTENT_TYPE, Selection, bundle
from taskpulse.errors import InvalidQuery
from taskpulse.roles import Right
from tasks.api import long_answers
from tasks.api.filters import A_MOMENT, given_twice, refuse_unknown, wrong_value
from tasks.api.schema import problems
from tasks.api.validation import Wrong, due_at, task_id
from tasks.api.views import ApiViewSet

_GREATEST_SEQ = 2**62
_ACTOR_LENGTH = 200


class ExportViewSet(ApiViewSet):
    content_negotiation_class = AnyRepresentation
    rights = {"GET": Right.READ_AUDIT}

    @extend_schema(
        operation_id="audit_export",
        summary="Export entries with their proofs",
        description="A bundle as JSON Lines, which deploy/verify/taskpulse_verify.py checks offline: a `log` line with the "
        "checkpoint, an `entry` line with the event and its C2SP tlog-proof for each entry, an `account` line for each event that "
        "erased some of them, and an `end` line. It takes half of "
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
        responses={(200, CONTENT_TYPE): OpenApiResponse(OpenApiTypes.STR, description="The bundle."), **problems(400, 414, 429)},
    )
    def retrieve(self, request):
        selection = _selection(request._request.GET)
        lines = bundle(selection, seconds=settings.WEB_REQUEST_SECONDS / 2)
        return long_answers.answer(lines, CONTENT_TYPE, f"audit-{selection.from_seq}.jsonl")


def _seq(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= _GREATEST_SEQ else None


_RULES = {
    "task": (task_id, _("the id of a task")),
    "actor": (lambda text: text if 1 <= len(text) <= _ACTOR_LENGTH and "\x00" not in text else None, _("the id of an actor")),
    "since": (due_at, A_MOMENT),
    "until": (due_at, A_MOMENT),
    "from": (_seq, _("the number of an entry")),
}


def _selection(query) -> Selection:
    """What a query string asks for. Raises InvalidQuery."""
    refuse_unknown(query, tuple(_RULES))
    found, errors = {}, []
    for name, (rule, expected) in _RULES.items():
        values = query.getlist(name)
        if len(values) > 1:
            errors.append(given_twice(name))
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
