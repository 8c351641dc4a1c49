"""The body of `POST /api/tasks/bulk`: up to 1,000 operations, each judged by itself.

Every error points into the body that was sent: `#/operations/3/task/title`.
"""

from dataclasses import dataclass, field
from uuid import UUID

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidBody, Problem
from tasks.api import validation
from tasks.api.serializers import TaskSerializer
from tasks.models import Task

MOST = 1_000
CREATE, UPDATE, DELETE = "create", "update", "delete"
MEMBERS = {CREATE: ("op", "task"), UPDATE: ("op", "id", "version", "task"), DELETE: ("op", "id", "version")}
_VERSION = _("expected the version that was read, 1 or more")
_WRITTEN = {CREATE: TaskSerializer(), UPDATE: TaskSerializer(partial=True)}


@dataclass(slots=True, eq=False)
class Operation:
    index: int
    op: str = ""
    key: UUID | None = None
    version: int | None = None
    values: dict = field(default_factory=dict)
    # The row as it was locked, and the task as this operation leaves it.
    row: Task | None = None
    task: Task | None = None
    problem: Problem | None = None

    def pointer(self, *path) -> str:
        return validation.pointer("operations", self.index, *path)

    def refuse(self, problem: Problem) -> None:
        """The problem of a request about this task alone, its errors led into the operation."""
        start = self.pointer("task")
        errors = [{**error, "pointer": start + error["pointer"][1:]} for error in problem.errors]
        self.problem = Problem(problem.status_code, problem.text, errors, type=problem.type.name)

    def refuse_member(self, name: str, detail: str, status: int = 422) -> None:
        errors = [{"pointer": self.pointer(name), "detail": detail}]
        self.problem = InvalidBody(errors) if status == 422 else Problem(status, detail, errors)


def read(body: dict) -> tuple[bool, list[Operation]]:
    """Whether it is all or nothing, and the operations; those that cannot be meant bear their problem.

    Raises InvalidBody if the body is no list of operations at all.
    """
    errors = [
        {"pointer": validation.pointer(name[:100]), "detail": _("no such member; expected operations, atomic")}
        for name in body
        if name not in {"operations", "atomic"}
    ]
    atomic, given = body.get("atomic", True), body.get("operations")
    if type(atomic) is not bool:
        errors.append({"pointer": "#/atomic", "detail": _("expected true or false")})
    if type(given) is not list:
        errors.append({"pointer": "#/operations", "detail": _("expected a list of operations")})
    elif not 1 <= len(given) <= MOST:
        detail = format_lazy(_("expected 1 to {most} operations, got {got}"), most=MOST, got=len(given))
        errors.append({"pointer": "#/operations", "detail": detail})
    if errors:
        raise InvalidBody(errors[: validation.MOST_ERRORS])
    operations = [_read(index, one) for index, one in enumerate(given)]
    _refuse_repetitions(operations)
    return atomic, operations


def _read(index: int, given) -> Operation:
    operation = Operation(index)
    if type(given) is not dict:
        operation.problem = InvalidBody([{"pointer": operation.pointer(), "detail": _("expected an object")}])
        return operation
    op = given.get("op")
    if type(op) is not str or op not in MEMBERS:
        operation.refuse_member("op", format_lazy(_("expected one of {values}"), values=", ".join(MEMBERS)))
        return operation
    operation.op = op
    for name in given:
        if name not in MEMBERS[op]:
            detail = format_lazy(_("no such member; there are {names}"), names=", ".join(MEMBERS[op]))
            operation.refuse_member(name[:100], detail)
            return operation
    if op != CREATE:
        _read_target(operation, given)
    if op != DELETE and operation.problem is None:
        _read_task(operation, given.get("task"))
    return operation


def _read_target(operation: Operation, given: dict) -> None:
    key = given.get("id")
    operation.key = validation.task_id(key) if type(key) is str else None
    operation.version = validation.whole(given.get("version"))
    if operation.key is None:
        operation.refuse_member("id", _("expected the id of a task"))
    elif operation.version is None:
        if "version" in given:
            operation.refuse_member("version", _VERSION)
    elif type(operation.version) is not int or operation.version < 1:
        operation.refuse_member("version", _VERSION)


def _read_task(operation: Operation, given) -> None:
    if type(given) is not dict:
        operation.refuse_member("task", _("expected an object"))
        return
    try:
        operation.values = _WRITTEN[operation.op].run_validation(given)
    except InvalidBody as wrong:
        operation.refuse(wrong)


def _refuse_repetitions(operations: list[Operation]) -> None:
    first: dict[UUID, int] = {}
    for operation in operations:
        if operation.key is not None and first.setdefault(operation.key, operation.index) != operation.index:
            where = first[operation.key]
            detail = _("operation {number} is about the same task: one request has one operation for a task")
            operation.refuse_member("id", format_lazy(detail, number=where))
