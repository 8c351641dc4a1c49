"""`/api/labels`: what is known of labels. Who writes tasks writes labels; one renamed or deleted is so on the tasks too."""

import orjson
from django.http import Http404, HttpResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidBody, Problem
from taskpulse.roles import Right
from tasks import label_changes
from tasks.api import filters, label_queries, pagination, parsers, preconditions, validation, writing
from tasks.api.label_schema import describe_labels
from tasks.api.origins import origin
from tasks.api.serializers import LabelSerializer
from tasks.api.views import ApiViewSet, empty_response, json_response, list_response
from tasks.labels import COLOUR_PATTERN, DEFAULT_COLOUR, LABEL_DESCRIPTION_LENGTH, LABEL_LENGTH
from tasks.models import Label


def _name(value) -> str:
    """As tasks bear it: neither trimmed nor folded."""
    return validation.text(value, 1, LABEL_LENGTH)


def _colour(value) -> str:
    if type(value) is not str or not COLOUR_PATTERN.fullmatch(value.lower()):
        raise validation.Wrong('expected a colour as "#d73a4a"')
    return value.lower()


def _description(value) -> str:
    return validation.text(value, 0, LABEL_DESCRIPTION_LENGTH)


_SHAPE = validation.Shape(
    kind="label",
    rules={"name": _name, "colour": _colour, "description": _description},
    output_only=frozenset({"id", "version", "updated_at"}),
    removed={"colour": lambda: DEFAULT_COLOUR, "description": str},
)


@describe_labels
class LabelViewSet(ApiViewSet):
    """Beside authentication a read is one statement, a new label two, a change of colour or description three."""

    serializer_class = LabelSerializer
    rights = {
        "GET": Right.READ_TASKS,
        "POST": Right.WRITE_TASKS,
        "PUT": Right.WRITE_TASKS,
        "PATCH": Right.WRITE_TASKS,
        "DELETE": Right.WRITE_TASKS,
    }

    def list(self, request):
        filters.refuse_unknown(request._request.GET, ("limit", "cursor"))
        at = pagination.read(request._request.GET, label_queries.KEYS)
        return list_response(request._request, label_queries.page(at), label_queries.KEYS)

    def retrieve(self, request, label):
        found = label_queries.read(_key(label), preconditions.known_tags(request._request))
        if found is None:
            raise Http404
        tag, text = found
        headers = {"ETag": tag}
        if text is None:
            return empty_response(304, **headers)
        return json_response(text.encode(), **headers)

    def create(self, request):
        values = _values(request, partial=False)

        def write():
            label = Label(**values)
            label.save(force_insert=True)
            return _written(label, 201, Location=f"{origin(request._request)}/api/labels/{label.pk}")

        return writing.answer(request, write)

    def update(self, request, label):
        key, values = _key(label), _values(request, partial=True)

        def write():
            found = _locked(request, key)
            for name, value in values.items():
                setattr(found, name, value)
            _on_tasks(label_changes.save, found)
            return _written(found, 200)

        return writing.answer(request, write)

    def partial_update(self, request, label):
        return self.update(request, label)

    def destroy(self, request, label):
        key = _key(label)

        def write():
            _on_tasks(label_changes.delete, _locked(request, key))
            return empty_response(204)

        return writing.answer(request, write)


def _key(written: str) -> str:
    """Raises Http404 for what PostgreSQL could not even look up."""
    if "\x00" in written:
        raise Http404
    return written


def _values(request, partial: bool) -> dict:
    """Raises InvalidBody with every wrong field."""
    given = parsers.read_object(request._request)
    values, errors = validation.validate(given, partial, _SHAPE)
    if not partial and "name" not in given:
        errors.append({"pointer": "#/name", "detail": validation.required(LABEL_LENGTH)})
    if errors:
        raise InvalidBody(errors)
    return values


def _locked(request, key: str) -> Label:
    label = label_queries.lock(key)
    if label is None:
        raise Http404
    preconditions.check(request._request, label.version, lambda: preconditions.etag(label.version), "label")
    return label


def _on_tasks(change, label: Label) -> None:
    try:
        change(label)
    except label_changes.TooManyTasks:
        detail = _(
            "More than {most} tasks bear this label, which a request does not change at once, since they would all stay locked. "
            "Nothing was changed. `manage.py labels` renames and deletes on any number of tasks."
        )
        raise Problem(409, format_lazy(detail, most=f"{label_changes.MOST_TASKS:,}"), type="too-many-tasks") from None


def _written(label: Label, status: int, **headers) -> HttpResponse:
    headers["ETag"] = preconditions.etag(label.version)
    return json_response(orjson.dumps(label.document()), status, **headers)
