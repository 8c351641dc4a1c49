"""`/api/tasks/{id}/comments`. Whoever writes tasks comments; a comment is changed and deleted by its author, or an admin."""

import orjson
from django.db import IntegrityError
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from taskpulse.errors import InvalidBody
from taskpulse.roles import Right, rights_of
from tasks.api import around_queries, filters, pagination, parsers, preconditions, validation, writing
from tasks.api.around_schema import describe_comments
from tasks.api.origins import origin
from tasks.api.serializers import CommentSerializer
from tasks.api.views import ApiViewSet, empty_response, json_response, list_response, task_key
from tasks.models import Comment


@describe_comments
class CommentViewSet(ApiViewSet):
    """Beside authentication a read is one statement (an empty list two), a new comment two, a change three."""

    serializer_class = CommentSerializer
    rights = {
        "GET": Right.READ_TASKS,
        "POST": Right.WRITE_TASKS,
        "PUT": Right.WRITE_TASKS,
        "PATCH": Right.WRITE_TASKS,
        "DELETE": Right.WRITE_TASKS,
    }

    def list(self, request, id):
        key = task_key(id)
        filters.refuse_unknown(request._request.GET, ("limit", "cursor"))
        at = pagination.read(request._request.GET, around_queries.KEYS)
        found = around_queries.comments(key, at)
        if not found.texts and not around_queries.task_exists(key):
            raise Http404
        return list_response(request._request, found, around_queries.KEYS)

    def retrieve(self, request, id, comment_id):
        found = around_queries.comment(task_key(id), task_key(comment_id), preconditions.known_tags(request._request))
        if found is None:
            raise Http404
        tag, text = found
        headers = {"ETag": tag}
        if text is None:
            return empty_response(304, **headers)
        return json_response(text.encode(), **headers)

    def create(self, request, id):
        key, values = task_key(id), _values(request, required=True)

        def write():
            comment = Comment(task_id=key, author=request.user, **values)
            try:
                comment.save(force_insert=True)
            except IntegrityError as error:
                if error.__cause__.diag.constraint_name == "comment_task":
                    raise Http404 from None
                raise
            return _written(comment, 201, Location=f"{origin(request._request)}/api/tasks/{key}/comments/{comment.pk}")

        return writing.answer(request, write)

    def update(self, request, id, comment_id):
        keys, values = (task_key(id), task_key(comment_id)), _values(request, required=False)

        def write():
            comment = _locked(request, *keys)
            for name, value in values.items():
                setattr(comment, name, value)
            comment.save()
            return _written(comment, 200)

        return writing.answer(request, write)

    def partial_update(self, request, id, comment_id):
        return self.update(request, id, comment_id)

    def destroy(self, request, id, comment_id):
        keys = task_key(id), task_key(comment_id)

        def write():
            _locked(request, *keys).delete()
            return empty_response(204)

        return writing.answer(request, write)


def _values(request, required: bool) -> dict:
    """Raises InvalidBody with every wrong field."""
    values, errors = {}, []
    given = parsers.read_object(request._request)
    if required and "body" not in given:
        errors.append({"pointer": "#/body", "detail": validation.COMMENT_REQUIRED})
    for name, value in given.items():
        try:
            if name == "body":
                values[name] = validation.comment_body(value)
            elif name not in validation.COMMENT_OUTPUT_ONLY:
                raise validation.Wrong("no such field; a comment has body")
        except validation.Wrong as wrong:
            errors.append({"pointer": validation.pointer(name[:100]), "detail": wrong.args[0]})
    if errors:
        raise InvalidBody(errors[: validation.MOST_ERRORS])
    return values


def _locked(request, task_id, comment_id) -> Comment:
    """The row, locked, for who may change it. Raises Http404 (also for a comment of another task), PermissionDenied, Problem."""
    comment = around_queries.lock_comment(task_id, comment_id)
    if comment is None:
        raise Http404
    if comment.author_id != request.user.pk and Right.MODERATE not in rights_of(request.user):
        raise exceptions.PermissionDenied("A comment is changed by its author, and by admins.")
    preconditions.check(request._request, comment.version, lambda: writing.tag(writing.document(comment)), "comment")
    return comment


def _written(comment: Comment, status: int, **headers) -> HttpResponse:
    document = writing.document(comment)
    headers["ETag"] = writing.tag(document)
    return json_response(orjson.dumps(document), status, **headers)
