"""`/api/audit` and what a task's own path tells of its past: history, a state as of then, how far it is audited."""

from dataclasses import replace

import orjson
from django.http import Http404, HttpResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view

from audit import past, watermark
from audit.api import filters, queries, search
from audit.api.serializers import EntrySerializer, WatermarkSerializer
from taskpulse.errors import Problem
from taskpulse.roles import Right
from tasks.api import pagination, prefer
from tasks.api.filters import refuse_unknown
from tasks.api.schema import ITEM, PAGE, TASK_ID, header, problems, several
from tasks.api.views import ApiViewSet, json_response, list_response, task_key
from tasks.events import rfc3339

# A window is added to it: the sum stays a bigint.
_KEYS = pagination.NumberKeys(2**62)
# Where a history leads whose beginning is archived: to a page that says so, since a list that ends there would look whole.
_BEFORE_ALL = 1
_TEXT = {"type": "string", "pattern": ITEM, "maxLength": filters.TEXT_LENGTH}


@extend_schema_view(
    list=extend_schema(
        summary="Search the audit log, newest first",
        description="`type`, `request_id` and `changed` need `task` or `since` (or `event`) beside them. Where no index bears all "
        f"of a search, a page looks at {search.WINDOW:,} entries at most: it may hold few or none and still lead on by its Link "
        "header. Follow `next` until there is none.",
        parameters=[
            several("event", "The id of an event.", {"type": "string", "format": "uuid"}),
            several("task", "The id of a task.", {"type": "string", "format": "uuid"}),
            several("actor", "The id of an actor as entries show it, the name of a user, or `me`.", _TEXT),
            several(
                "type",
                "The type of the event.",
                {"anyOf": [{"enum": filters.event_types()}, {"type": "string", "pattern": f"^{filters.ACT}$"}]},
            ),
            several("request_id", "The request's id (X-Request-ID).", _TEXT),
            several("changed", "A field that was changed; a creation changes each that it sets.", {"enum": filters.fields()}),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="It occurred then or later."),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="It occurred before then."),
            *PAGE,
        ],
        responses={200: EntrySerializer(many=True), **problems(400, 414)},
    ),
    retrieve=extend_schema(
        summary="Read an entry of the audit log",
        parameters=[OpenApiParameter("event_id", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The event's id.")],
        responses={200: EntrySerializer, **problems(404)},
    ),
)
class AuditViewSet(ApiViewSet):
    serializer_class = EntrySerializer
    lookup_field = "event_id"
    rights = {"GET": Right.READ_AUDIT}

    def list(self, request):
        wanted = filters.of_entries(request._request.GET, request.user.pk)
        at = pagination.read(request._request.GET, _KEYS)
        return list_response(request._request, search.page(wanted, at), _KEYS)

    def retrieve(self, request, event_id):
        text = queries.one(task_key(event_id))
        if text is None:
            raise Http404
        return json_response(text.encode())


class HistoryViewSet(ApiViewSet):
    """For whoever may read the task; it outlives the task."""

    serializer_class = EntrySerializer
    rights = {"GET": Right.READ_TASKS}

    @extend_schema(
        operation_id="tasks_history_list",
        summary="Read a task's history, newest first",
        description="Where the beginning of a history is archived, the last page leads on to a 410 that names the file.",
        parameters=[TASK_ID, *PAGE],
        responses={200: EntrySerializer(many=True), **problems(400, 404, 410)},
    )
    def list(self, request, id):
        key = task_key(id)
        refuse_unknown(request._request.GET, ("limit", "cursor"))
        at = pagination.read(request._request.GET, _KEYS)
        found = search.page(search.Search(tasks=[key]), at)
        if not found.texts:
            _refuse_archived(key, _("The history of this task") if at.key is None else _("The rest of the history of this task"))
            if at.key is None and not queries.task_exists(key):
                raise Http404
        elif found.older is None and not _is_creation(found.texts[-1]) and past.archived(key):
            found = replace(found, older=_BEFORE_ALL)
        return list_response(request._request, found, _KEYS)


class AuditedViewSet(ApiViewSet):
    """For whoever may read the task, and also once it is deleted: that is a change like any other."""

    serializer_class = WatermarkSerializer
    rights = {"GET": Right.READ_TASKS}

    @extend_schema(
        operation_id="tasks_audited_retrieve",
        summary="Read how far a task's changes are in the audit log",
        description="All of them are when both versions are equal. `Prefer: wait=1` (RFC 7240) waits for that, a second at the "
        "most; an answer without `Preference-Applied` did not wait, since too many others do.",
        parameters=[
            TASK_ID,
            OpenApiParameter("Prefer", str, OpenApiParameter.HEADER, description="`wait=1`"),
            header("Preference-Applied", "`wait=1`", [200]),
        ],
        responses={200: WatermarkSerializer, **problems(404)},
    )
    def retrieve(self, request, id):
        wanted = min(prefer.wait_seconds(request._request.META.get("HTTP_PREFER", "")), watermark.LONGEST_WAIT)
        found, applied = watermark.wait(task_key(id), wanted)
        if found is None:
            raise Http404
        content = orjson.dumps({"version": found.version, "audited_version": found.audited_version})
        response = json_response(content, **({"Preference-Applied": f"wait={wanted}"} if applied else {}))
        response["Vary"] = "Prefer"
        return response


def read_past(request, key) -> HttpResponse:
    """`/api/tasks/{id}?version=N` and `?as_of=TIME`: the task as it was, from the log and what still waits for it."""
    asked = filters.of_past(request.GET)
    if asked.version is not None:
        state, point = past.at_version(key, asked.version), f"version {asked.version}"
    else:
        state, point = past.at_time(key, asked.as_of), rfc3339(asked.as_of)
    if state is None:
        _refuse_archived(key, format_lazy(_("What this task was at {point}"), point=point), asked.version)
        detail = _("There is no such task at {point}.")
        raise Problem(404, format_lazy(detail, point=point))
    if state.deleted:
        detail = _("There is no such task at {point}: version {version} is its deletion.")
        raise Problem(404, format_lazy(detail, point=point, version=state.version))
    if state.document is None:
        detail = _("The content of version {version} was erased.")
        if state.redacted_by:
            detail = _("The content of version {version} was erased by event {event}.")
        raise Problem(410, format_lazy(detail, version=state.version, event=state.redacted_by))
    # The keys as the task itself shows them: JSONB has an order of its own.
    return json_response(orjson.dumps(state.document, option=orjson.OPT_SORT_KEYS))


def _is_creation(text: str) -> bool:
    entry = orjson.loads(text)
    return entry["version"] == 1 and entry["subject"] == f"task/{entry['task_id']}"


def _refuse_archived(key, what: str, version: int | None = None) -> None:
    """A 410 that names the file, where entries of the task are archived, and `version`, if one is asked for, is among them."""
    archived = past.archived(key)
    if archived is not None and (version or 0) <= archived.version:
        detail = _("{what} is archived: {file} or an archive before it holds it.")
        if version == archived.version:
            detail = _("{what} is archived: {file} holds it.")
        raise Problem(410, format_lazy(detail, what=what, file=archived.file), type="archived")
