"""`/api/tasks/bulk`: up to 1,000 creations, updates and deletions in one request and one transaction."""

import ctypes
import gc
import threading
from contextlib import contextmanager

import orjson
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse import problem_types
from taskpulse.errors import Problem
from taskpulse.roles import Right
from tasks.api import bulk, operations, parsers, validation, writing
from tasks.api.bulk_schema import describe_bulk
from tasks.api.operations import CREATE, DELETE, Operation
from tasks.api.views import ApiViewSet, json_response

_WAIT_SECONDS = 2
_BUSY = _("Other bulk requests are under way; send this one again.")
# One at a time in a process: each takes some 30 MB of memory.
place = threading.BoundedSemaphore(1)
# Of glibc (malloc_trim(3)); another C library gives back what is free by itself.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


@contextmanager
def _alone():
    """Raises Problem 429 where others take too long. What was used is given back: the garbage collector seldom runs in the web role
    (deploy/gunicorn.conf.py), and each thread would keep the memory of its largest request."""
    if not place.acquire(timeout=_WAIT_SECONDS):
        raise Problem(429, _BUSY, headers={"Retry-After": str(_WAIT_SECONDS)})
    try:
        yield
    finally:
        gc.collect()
        if _trim is not None:
            _trim(0)
        place.release()


@describe_bulk
class BulkViewSet(ApiViewSet):
    rights = {"POST": Right.WRITE_TASKS}

    def create(self, request):
        body = parsers.read_object(request._request)

        def write():
            atomic, asked = operations.read(body)
            _refuse_all(atomic, asked)
            bulk.run(asked, request.user)
            _refuse_all(atomic, asked)
            shown = zip(asked, bulk.documents(asked), strict=True)
            return json_response(orjson.dumps([_result(operation, task, request) for operation, task in shown]))

        with _alone():
            return writing.answer(request, write)


def _refuse_all(atomic: bool, asked: list[Operation]) -> None:
    """Raises one problem with the errors of all, of their type if they share one and else 422, where it is all or nothing."""
    refused = [operation.problem for operation in asked if operation.problem is not None]
    if not atomic or not refused:
        return
    types = {problem.type for problem in refused}
    shared = types.pop() if len(types) == 1 else problem_types.named(422)
    errors = [error for problem in refused for error in problem.errors]
    detail = _("Nothing was changed: {refused} of {asked} operations cannot be done; see `errors`.")
    detail = format_lazy(detail, refused=len(refused), asked=len(asked))
    raise Problem(shared.status, detail, errors[: validation.MOST_ERRORS], type=shared.name)


def _result(operation: Operation, task: dict | None, request) -> dict:
    if operation.problem is not None:
        problem = operation.problem
        shown = problem_types.document(problem.type, problem.text, request._request.request_id, problem.errors)
        return {"index": operation.index, "status": problem.status_code, "problem": shown}
    if operation.op == DELETE:
        return {"index": operation.index, "status": 204}
    return {"index": operation.index, "status": 201 if operation.op == CREATE else 200, "task": task}
