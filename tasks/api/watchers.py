"""`/api/tasks/{id}/watchers`. Whoever reads a task may watch it; that somebody else does is for who writes tasks to say."""

import orjson
from django.http import Http404
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions

from taskpulse.errors import Problem
from taskpulse.roles import Right, rights_of
from tasks.api import around_queries, filters, pagination, writing
from tasks.api.around_schema import describe_watchers
from tasks.api.serializers import WatcherSerializer
from tasks.api.views import ApiViewSet, empty_response, json_response, list_response, task_key
from tasks.models import Watcher


@describe_watchers
class WatcherViewSet(ApiViewSet):
    """PUT and DELETE may be repeated: what is so already makes no event. A task's lock keeps two that come at once apart."""

    serializer_class = WatcherSerializer
    rights = {"GET": Right.READ_TASKS, "PUT": Right.READ_TASKS, "DELETE": Right.READ_TASKS}

    def list(self, request, id):
        key = task_key(id)
        filters.refuse_unknown(request._request.GET, ("limit", "cursor"))
        at = pagination.read(request._request.GET, around_queries.KEYS)
        found = around_queries.watchers(key, at)
        if not found.texts and not around_queries.task_exists(key):
            raise Http404
        return list_response(request._request, found, around_queries.KEYS)

    def update(self, request, id, user):
        key, user_id = task_key(id), _person(request, user)

        def write():
            if not around_queries.lock_task(key):
                raise Http404
            person, watcher = around_queries.watcher(key, user_id)
            if person is None or not (person.is_active or watcher):
                detail = _("There is no active person {person}.")
                raise Problem(404, format_lazy(detail, person=user_id))
            status = 200 if watcher else 201
            if watcher is None:
                watcher = Watcher(task_id=key, user=person)
                watcher.save(force_insert=True)
            return json_response(orjson.dumps(writing.document(watcher)), status)

        return writing.answer(request, write)

    def destroy(self, request, id, user):
        key, user_id = task_key(id), _person(request, user)

        def write():
            if not around_queries.lock_task(key):
                raise Http404
            _, watcher = around_queries.watcher(key, user_id)
            if watcher is not None:
                watcher.delete()
            return empty_response(204)

        return writing.answer(request, write)


def _person(request, written: str) -> int:
    """The id in a path. Raises Http404 for what is none, PermissionDenied for somebody else whom the caller may not name."""
    if written == "me":
        return request.user.pk
    if not (written.isascii() and written.isdigit() and len(written) <= 10 and 0 < int(written) < 2**31):
        raise Http404
    if int(written) != request.user.pk and Right.WRITE_TASKS not in rights_of(request.user):
        raise exceptions.PermissionDenied("Your role lets you watch tasks yourself, and nobody else.")
    return int(written)
