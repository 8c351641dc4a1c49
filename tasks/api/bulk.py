"""Many writes of tasks in a constant number of statements: rows are locked by one, references looked up by one, and what is
created, updated and deleted is written by one each, with its events.

Creations and updates take effect before deletions, whatever their order, and each operation is judged by how the tasks are
before the request: so an operation may not build on what another one of the request does.
"""

import copy

from django.conf import settings
from django.db import DataError, IntegrityError, transaction
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidBody, Problem
from tasks import deletion
from tasks.api import queries, validation, writing
from tasks.api.operations import CREATE, DELETE, UPDATE, Operation
from tasks.locked_update import update_locked
from tasks.models import Task

_DELETES = _("operation {number} deletes the parent")
_MOVES = _("operation {number} makes the parent a subtask")
_ORDER = [CREATE, UPDATE, DELETE]
# Of the texts of the tasks that are named, as JSON: as many as a body has. Row, event and answer are in memory together, and 1,000
# of the longest would have 120 MB in each.
MOST_BYTES = 1_000_000


def run(operations: list[Operation], user) -> None:
    """Applies those without a problem, in the caller's transaction. Each has its `task` or its `problem` then. Raises InvalidBody
    where the tasks are too long to be changed at once."""
    named = {operation.values["parent"] for operation in _open(operations) if operation.values.get("parent")}
    keys = {operation.key for operation in _open(operations) if operation.key}
    rows, parents = _locked(keys | named)
    for operation in _open(operations):
        if operation.key is not None:
            _meet(operation, rows.get(operation.key))
    writes = [operation for operation in _open(operations) if operation.op != DELETE]
    for operation in writes:
        _judge(operation)
    people = _people(_open(writes), user)
    _check_people(_open(writes), people)
    _check_parents(_open(operations), rows, parents)
    _write_or_split(sorted(_open(operations), key=lambda operation: _ORDER.index(operation.op)), user, people)


def _locked(keys: set) -> tuple[dict, set]:
    if not keys:
        return {}, set()
    size = queries.size(keys, MOST_BYTES)
    if size > MOST_BYTES:
        detail = _("the texts of these tasks have {size} bytes as JSON, and one request changes {most} at most; name fewer tasks")
        detail = format_lazy(detail, size=size, most=MOST_BYTES)
        raise InvalidBody([{"pointer": "#/operations", "detail": detail}])
    return queries.lock_all(keys)


def documents(operations: list[Operation]) -> list[dict | None]:
    """What each operation leaves, in their order: None for a deletion and a refusal."""
    left = [operation.task for operation in operations if operation.task is not None]
    silent = [task for task in left if task.recorded is None or task.recorded["version"] != task.version]
    found = dict(zip((task.pk for task in silent), Task.documents(silent), strict=True))
    return [one.task and (found.get(one.task.pk) or one.task.recorded) for one in operations]


def _open(operations) -> list[Operation]:
    return [operation for operation in operations if operation.problem is None]


def _meet(operation: Operation, row: Task | None) -> None:
    operation.row = row
    if row is None:
        operation.refuse_member("id", writing.no_parent(operation.key)["detail"], 404)
    elif operation.version is None and settings.REQUIRE_IF_MATCH:
        detail = _("missing: name the version that was read, so that nobody's change is lost")
        operation.refuse_member("version", detail, 428)
    elif operation.version not in (None, row.version):
        detail = _("the task is at version {version} now, not at {named}")
        operation.refuse_member("version", format_lazy(detail, version=row.version, named=operation.version), 412)


def _judge(operation: Operation) -> None:
    """By the row alone."""
    row = operation.row
    try:
        if row is not None:
            writing.check_transition(row, operation.values)
        operation.values = writing.merged(row and row.assignee_id, operation.values)
    except Problem as wrong:
        operation.refuse(wrong)


def _people(writes: list[Operation], user) -> dict[int, object]:
    """Who may be assigned, by id: the caller, who is assigned already, and the active people that are named."""
    people = {user.pk: user}
    named = set()
    for operation in writes:
        row, key = operation.row, operation.values.get("assignee")
        if key is not None and row is not None and key == row.assignee_id and row._state.fields_cache.get("assignee"):
            people.setdefault(key, row.assignee)
        elif key is not None:
            named.add(key)
    named.discard(user.pk)
    return people | (queries.active_people(named) if named else {})


def _check_people(writes: list[Operation], people: dict) -> None:
    for operation in writes:
        key = operation.values.get("assignee")
        if key is not None and key not in people:
            operation.refuse(InvalidBody([writing.no_person(key)]))


def _check_parents(operations: list[Operation], rows: dict, parents: set) -> None:
    """One level of subtasks, as it was before and as it will be."""
    deleted = {operation.key: operation.index for operation in operations if operation.op == DELETE}
    for operation in operations:
        key = _parent(operation)
        if key is None:
            continue
        is_new = operation.row is None or key != operation.row.parent_id
        if key in deleted:
            operation.refuse(InvalidBody([{"pointer": "#/parent", "detail": format_lazy(_DELETES, number=deleted[key])}]))
        elif is_new and key not in rows:
            operation.refuse(InvalidBody([writing.no_parent(key)]))
        elif is_new and key == operation.key:
            operation.refuse(InvalidBody([validation.constraint("task_not_its_own_parent")]))
        elif is_new and rows[key].parent_id is not None:
            operation.refuse(InvalidBody([writing.PARENT_IS_SUBTASK]))
        elif is_new and operation.key in parents:
            operation.refuse(InvalidBody([validation.constraint("task_parent_one_level")]))
    _check_moves(_open(operations))


def _parent(operation: Operation):
    """The parent that the operation leaves its task with."""
    if operation.op == DELETE:
        return None
    return operation.values.get("parent", operation.row.parent_id if operation.row else None)


def _check_moves(operations: list[Operation]) -> None:
    """Refuses an operation whose parent becomes a subtask by another one, which is done: so the end of each chain is judged
    first, and what is refused is in nobody's way. Of a ring one has to give way."""
    moves = {operation.key: operation for operation in operations if operation.key and operation.values.get("parent")}
    judged = set()
    for operation in operations:
        chain = []
        while operation is not None and operation.index not in judged:
            judged.add(operation.index)
            chain.append(operation)
            operation = moves.get(_parent(operation))
        for one in reversed(chain):
            other = moves.get(_parent(one))
            if other is not None and other.problem is None:
                one.refuse(InvalidBody([{"pointer": "#/parent", "detail": format_lazy(_MOVES, number=other.index)}]))


def _write_or_split(operations: list[Operation], user, people: dict) -> None:
    """Writes them together. What the database refuses all the same is found by halving, so that the others are written."""
    if not operations:
        return
    try:
        with transaction.atomic():
            _write(operations, user, people)
    except (IntegrityError, DataError) as error:
        errors = validation.constraint_errors(error)
        if errors is None:
            raise
        if len(operations) == 1:
            operations[0].refuse(InvalidBody(errors))
            return
        half = len(operations) // 2
        _write_or_split(operations[:half], user, people)
        _write_or_split(operations[half:], user, people)


def _write(operations: list[Operation], user, people: dict) -> None:
    created, changed, deleted = [], [], []
    for operation in operations:
        # A copy: what was locked stays as it was read, for the event and for another try.
        task = Task(created_by=user) if operation.row is None else copy.copy(operation.row)
        if operation.op == DELETE:
            deleted.append(task)
            continue
        writing.set_fields(task, operation.values, people)
        operation.task = task
        if operation.op == CREATE:
            created.append(task)
        else:
            changed.append((task, operation.row))
    if created:
        Task.objects.bulk_create(created)
    update_locked(changed)
    if deleted:
        deletion.delete(deleted, "default", origin=Task.objects.filter(pk__in=[task.pk for task in deleted]))
