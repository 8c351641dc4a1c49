"""`/api/tasks/{id}/subtasks`: the list of tasks, of one parent. How far they are, `expand=progress` on the parent says."""

from django.http import Http404

from taskpulse.errors import InvalidQuery
from taskpulse.roles import Right
from tasks.api import filters, listing, queries
from tasks.api.around_queries import task_exists
from tasks.api.serializers import TaskSerializer
from tasks.api.task_schema import describe_subtasks
from tasks.api.views import ApiViewSet, list_response, task_key

_PARAMETERS = tuple(name for name in listing.PARAMETERS if name != "parent")


@describe_subtasks
class SubtaskViewSet(ApiViewSet):
    """One statement; an empty list two."""

    serializer_class = TaskSerializer
    rights = {"GET": Right.READ_TASKS}

    def list(self, request, id):
        key, query = task_key(id), request._request.GET.copy()
        errors = filters.unknown(query, _PARAMETERS)
        if errors:
            raise InvalidQuery(errors)
        query["parent"] = str(key)
        asked = listing.read(query, request.user.pk)
        found = queries.page(asked)
        if not found.texts and not task_exists(key):
            raise Http404
        return list_response(request._request, found, asked.keys)
