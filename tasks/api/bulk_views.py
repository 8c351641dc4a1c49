"""`/api/tasks/bulk`: up to 1,000 creations, updates and deletions in one request and one transaction."""

import orjson

from taskpulse import problem_types
from taskpulse.errors import Problem
from taskpulse.roles import Right
from tasks.api import bulk, operations, parsers, validation, writing
from tasks.api.bulk_schema import describe_bulk
from tasks.api.operations import CREATE, DELETE, Operation
from tasks.api.views import ApiViewSet, json_response


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

        return writing.answer(request, write)


def _refuse_all(atomic: bool, asked: list[Operation]) -> None:
    """Raises one problem with the errors of all, of their type if they share one and else 422, where it is all or nothing."""
    refused = [operation.problem for operation in asked if operation.problem is not None]
    if not atomic or not refused:
        return
    types = {problem.type for problem in refused}
    shared = types.pop() if len(types) == 1 else problem_types.named(422)
    errors = [error for problem in refused for error in problem.errors]
    detail = f"Nothing was changed: {len(refused)} of {len(asked)} operations cannot be done; see `errors`."
    raise Problem(shared.status, detail, errors[: validation.MOST_ERRORS], type=shared.name)


def _result(operation: Operation, task: dict | None, request) -> dict:
    if operation.problem is not None:
        problem = operation.problem
        shown = problem_types.document(problem.type, problem.text, request._request.request_id, problem.errors)
        return {"index": operation.index, "status": problem.status_code, "problem": shown}
    if operation.op == DELETE:
        return {"index": operation.index, "status": 204}
    return {"index": operation.index, "status": 201 if operation.op == CREATE else 200, "task": task}
