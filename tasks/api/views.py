"""`/api/tasks`: lists, reads and writes of tasks. Beside authentication a read is one statement, a create two, an update two (row,
event), or three (lock, row, event) where what it writes depends on what is there; each plus one if the body names another person
or a parent."""

import itertools

import orjson
from django.http import Http404, HttpResponse
from rest_framework import viewsets

from taskpulse.errors import InvalidQuery
from taskpulse.roles import Right
from tasks.api import counts, filters, listing, members, pagination, parsers, preconditions, queries, streams, validation, writing
from tasks.api.authentication import BearerAuthentication, SessionAuthentication
from tasks.api.negotiation import PLAIN, JsonNegotiation, JsonRenderer
from tasks.api.origins import origin
from tasks.api.permissions import RolePermission
from tasks.api.serializers import TaskSerializer
from tasks.api.task_schema import describe_tasks
from tasks.models import Task

_READ_PARAMETERS = (*members.PARAMETERS, "version", "as_of")


class ApiViewSet(viewsets.ViewSet):
    """What the resources of this API share. `rights` names the right that each method needs; the rest is denied."""

    authentication_classes = [BearerAuthentication, SessionAuthentication]
    permission_classes = [RolePermission]
    throttle_classes = []
    parser_classes = [parsers.JsonParser]
    renderer_classes = [JsonRenderer]
    content_negotiation_class = JsonNegotiation
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    rights: dict[str, Right] = {}

    # DRF's, with each answer, is Allow; it belongs to a 405 (RFC 9110 §10.2.1), and to OPTIONS (taskpulse/http_methods.py).
    default_response_headers = property(lambda self: {})

    def finalize_response(self, request, response, *args, **kwargs):
        if response.status_code == 405:
            response["Allow"] = ", ".join(self.allowed_methods)
        return super().finalize_response(request, response, *args, **kwargs)

    def dispatch(self, request, *args, **kwargs):
        """As DRF's, without the circles that it leaves to the garbage collector: view and request, the view and its methods."""
        try:
            return super().dispatch(request, *args, **kwargs)
        finally:
            self.request.parser_context.clear()
            for method in self.http_method_names:
                vars(self).pop(method, None)


def json_response(content: bytes, status: int = 200, **headers) -> HttpResponse:
    return HttpResponse(content, status=status, headers=headers, content_type="application/json")


def empty_response(status: int, **headers) -> HttpResponse:
    response = HttpResponse(status=status, headers=headers)
    del response["Content-Type"]
    return response


def task_key(written: str):
    """The id in a path. Raises Http404."""
    key = validation.task_id(written)
    if key is None:
        raise Http404
    return key


def list_response(request, page: pagination.Slice, keys: pagination.Keys, **headers) -> HttpResponse:
    response = json_response(f"[{','.join(page.texts)}]".encode(), **headers)
    link = pagination.link(request, keys, page)
    if link:
        response["Link"] = link
    return response


# They keep nothing of what they validate.
_WHOLE, _CHANGE = TaskSerializer(), TaskSerializer(partial=True)


@describe_tasks
class TaskViewSet(ApiViewSet):
    serializer_class = TaskSerializer
    lookup_field = "id"
    rights = {
        "GET": Right.READ_TASKS,
        "POST": Right.WRITE_TASKS,
        "PUT": Right.WRITE_TASKS,
        "PATCH": Right.WRITE_TASKS,
        "DELETE": Right.WRITE_TASKS,
    }

    def perform_content_negotiation(self, request, force=False):
        """The list has other forms than JSON too."""
        self.form = None
        if self.action == "list" and (accept := request._request.META.get("HTTP_ACCEPT")) not in PLAIN:
            self.form = streams.asked_for(accept)
            if self.form:
                return self.renderer_classes[0](), self.form.content_type
        return super().perform_content_negotiation(request, force)

    def list(self, request):
        if self.form:
            asked = listing.read(request._request.GET, request.user.pk, whole=True)
            return streams.answer(request._request, asked, self.form)
        asked = listing.read(request._request.GET, request.user.pk)
        counted = counts.headers(request._request, asked.filters)
        return list_response(request._request, queries.page(asked), asked.keys, **counted)

    # Answers `?version=` and `?as_of=` from the audit log, which this package does not know: taskpulse/urls.py names it.
    read_past = None

    def retrieve(self, request, id):
        if request._request.META.get("QUERY_STRING"):
            return self._read_as_asked(request._request, task_key(id))
        found = queries.read(task_key(id), preconditions.known_tags(request._request))
        if found is None:
            raise Http404
        tag, text = found
        headers = {"ETag": tag}
        if text is None:
            return empty_response(304, **headers)
        return json_response(text.encode(), **headers)

    def _read_as_asked(self, request, key) -> HttpResponse:
        """With parameters: the task as it was, or some of its members. Neither has an ETag: If-None-Match is only checked."""
        preconditions.known_tags(request)
        if "version" in request.GET or "as_of" in request.GET:
            return self.read_past(request, key)
        errors = filters.unknown(request.GET, _READ_PARAMETERS)
        shown = members.read(request.GET, errors)
        if errors:
            raise InvalidQuery(errors)
        text = queries.read_members(key, shown)
        if text is None:
            raise Http404
        return json_response(text.encode())

    def create(self, request):
        values, user = self._values(request, partial=False), request.user

        def write():
            task = Task.fresh(created_by_id=user.pk)
            task._state.fields_cache["created_by"] = user
            writing.assign(task, values, user)
            task.save_base(using="default", force_insert=True)  # `save` looks for what a new task has not
            return self._written(task, 201, Location=f"{origin(request._request)}/api/tasks/{task.pk}")

        return writing.answer(request, write)

    def update(self, request, id):
        key, values = task_key(id), self._values(request, partial=True)
        tries = itertools.count()

        def write():
            unread = next(tries) == 0 and not preconditions.are_asked(request._request)
            task = writing.change_unread(key, values) if unread else None
            if task is None:
                task = self._locked(request, key)
                writing.check_transition(task, values)
                writing.assign(task, values, request.user)
                task.save(update_fields=values)
            return self._written(task, 200)

        return writing.answer(request, write)

    def partial_update(self, request, id):
        return self.update(request, id)

    def destroy(self, request, id):
        key = task_key(id)

        def write():
            self._locked(request, key).delete()
            return empty_response(204)

        return writing.answer(request, write)

    def _values(self, request, partial: bool) -> dict:
        return (_CHANGE if partial else _WHOLE).run_validation(parsers.read_object(request._request))

    def _locked(self, request, key) -> Task:
        """The row, locked: a write never fails for being second, unless it says by If-Match that it wants to."""
        task = queries.lock(key)
        if task is None:
            raise Http404
        preconditions.check(request._request, task.version, lambda: writing.tag(writing.document(task)))
        return task

    def _written(self, task: Task, status: int, **headers) -> HttpResponse:
        document = writing.document(task)
        headers["ETag"] = writing.tag(document)
        return json_response(orjson.dumps(document), status, **headers)
