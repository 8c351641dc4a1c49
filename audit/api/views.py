"""`/api/audit` and `/api/tasks/{id}/history`: the log, read only, newest first."""

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view

from audit.api import filters, queries
from audit.api.serializers import EntrySerializer
from taskpulse.roles import Right
from tasks.api import pagination
from tasks.api.filters import refuse_unknown
from tasks.api.schema import PAGE, TASK_ID, problems, several
from tasks.api.views import ApiViewSet, json_response, list_response, task_key

# A window is added to it: the sum stays a bigint.
_GREATEST_KEY = 2**62


@extend_schema_view(
    list=extend_schema(
        summary="Search the audit log, newest first",
        description=f"By actor or type a page looks at {queries.WINDOW:,} entries at most: it may hold few or none and still lead "
        "on by its Link header. Follow `next` until there is none.",
        parameters=[
            several("task", "The id of a task.", {"type": "string", "format": "uuid"}),
            several("actor", "The id of an actor as entries show it, or `me`.", {"type": "string"}),
            several("type", "The type of the event.", {"type": "string"}),
            *PAGE,
        ],
        responses={200: EntrySerializer(many=True), **problems(400)},
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
        search = filters.of_entries(request._request.GET, request.user.pk)
        at = pagination.read(request._request.GET, _GREATEST_KEY)
        return list_response(request._request, queries.page(search, at))

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
        parameters=[TASK_ID, *PAGE],
        responses={200: EntrySerializer(many=True), **problems(400, 404)},
    )
    def list(self, request, id):
        key = task_key(id)
        refuse_unknown(request._request.GET, ("limit", "cursor"))
        at = pagination.read(request._request.GET, _GREATEST_KEY)
        found = queries.page(queries.Search(tasks=[key]), at)
        if not found.texts and at.key is None and not queries.task_exists(key):
            raise Http404
        return list_response(request._request, found)
