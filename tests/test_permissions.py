"""Who may do what: every role on every method of every route, from one table; what it does not name fails the tests."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import transaction
from django.urls import URLResolver, get_resolver
from django.utils import timezone

from audit.models import Entry
from taskpulse import roles
from taskpulse.roles import Right
from tasks.models import ApiToken, Comment, Label, Task
from tests.api_client import Api, person, problem
from tests.test_api_audit import record

pytestmark = pytest.mark.django_db

# The answer to each kind of caller. A GET stands for HEAD too. `{…}` in a path is an attribute of `objects`, below.
_CALLERS = ("nobody", "no group", "viewer", "member", "auditor", "admin")
_TABLE = """
live            GET     /healthz                          200  200  200  200  200  200
ready           GET     /readyz                           200  200  200  200  200  200
metrics         GET     /metrics                          200  200  200  200  200  200
schema          GET     /api/schema                       200  200  200  200  200  200
docs            GET     /api/docs                         200  200  200  200  200  200
redoc           GET     /api/redoc                        200  200  200  200  200  200
asyncapi        GET     /api/asyncapi                     200  200  200  200  200  200
event-schema    GET     /api/schemas/task-event.v1.json   200  200  200  200  200  200
problems        GET     /api/problems                     200  200  200  200  200  200
problem         GET     /api/problems/not-found           200  200  200  200  200  200
task-list       GET     /api/tasks                        401  403  200  200  200  200
task-list       POST    /api/tasks                        401  403  403  201  403  201
task-bulk       POST    /api/tasks/bulk                   401  403  403  200  403  200
task-detail     GET     /api/tasks/{task}                 401  403  200  200  200  200
task-detail     GET     /api/tasks/{task}?version=1       401  403  200  200  200  200
task-detail     PUT     /api/tasks/{task}                 401  403  403  200  403  200
task-detail     PATCH   /api/tasks/{task}                 401  403  403  200  403  200
task-detail     DELETE  /api/tasks/{task}                 401  403  403  204  403  204
task-subtask-list    GET    /api/tasks/{task}/subtasks            401  403  200  200  200  200
task-history    GET     /api/tasks/{task}/history         401  403  200  200  200  200
task-audited    GET     /api/tasks/{task}/audited         401  403  200  200  200  200
task-comment-list    GET    /api/tasks/{task}/comments            401  403  200  200  200  200
task-comment-list    POST   /api/tasks/{task}/comments            401  403  403  201  403  201
task-comment-detail  GET    /api/tasks/{task}/comments/{comment}  401  403  200  200  200  200
task-comment-detail  PUT    /api/tasks/{task}/comments/{comment}  401  403  403  403  403  200
task-comment-detail  PATCH  /api/tasks/{task}/comments/{comment}  401  403  403  403  403  200
task-comment-detail  DELETE /api/tasks/{task}/comments/{comment}  401  403  403  403  403  204
task-watcher-list    GET    /api/tasks/{task}/watchers            401  403  200  200  200  200
task-watcher-detail  PUT    /api/tasks/{task}/watchers/me         401  403  201  201  201  201
task-watcher-detail  DELETE /api/tasks/{task}/watchers/me         401  403  204  204  204  204
task-watcher-detail  PUT    /api/tasks/{task}/watchers/{person}   401  403  403  201  403  201
task-watcher-detail  DELETE /api/tasks/{task}/watchers/{person}   401  403  403  204  403  204
label-list      GET     /api/labels                       401  403  200  200  200  200
label-list      POST    /api/labels                       401  403  403  201  403  201
label-detail    GET     /api/labels/{label}               401  403  200  200  200  200
label-detail    PUT     /api/labels/{label}               401  403  403  200  403  200
label-detail    PATCH   /api/labels/{label}               401  403  403  200  403  200
label-detail    DELETE  /api/labels/{label}               401  403  403  204  403  204
audit-list      GET     /api/audit                        401  403  403  403  200  200
audit-detail    GET     /api/audit/{event}                401  403  403  403  200  200
audit-export    GET     /api/audit/export                 401  403  403  403  200  200
audit-proof     GET     /api/audit/{event}/proof          401  403  403  403  404  404
log-checkpoint  GET     /audit/checkpoint                 401  403  403  403  404  404
log-tile        GET     /audit/tile/0/000                 401  403  403  403  404  404
log-tile        GET     /audit/tile/entries/000.p/1       401  403  403  403  404  404
"""
# What is sent, where it is not a title.
_BODIES: dict[str, object] = {
    "task-comment-list": {"body": "x"},
    "task-comment-detail": {"body": "y"},
    "label-list": {"name": "x"},
    "label-detail": {"name": "y"},
    "task-bulk": {"operations": [{"op": "create", "task": {"title": "x"}}]},
}
_WRITES = {"POST", "PUT", "PATCH", "DELETE"}


def _cells():
    for line in _TABLE.strip().splitlines():
        route, method, path, *statuses = line.split()
        yield SimpleNamespace(route=route, method=method, path=path, statuses=dict(zip(_CALLERS, map(int, statuses), strict=True)))


_CELLS = list(_cells())


def _routes(patterns=None) -> dict[str, set[str]]:
    """The methods of each route by its name, the console's aside (tests/test_console_access.py)."""
    found: dict[str, set[str]] = {}
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            if pattern.app_name != "admin":
                found |= _routes(pattern.url_patterns)
        elif pattern.name != "root":
            actions = getattr(pattern.callback, "actions", None) or ("get",)
            found[pattern.name] = {method.upper() for method in actions} - {"HEAD", "OPTIONS"}
    return found


def test_every_method_of_every_route_is_in_the_table():
    table: dict[str, set[str]] = {}
    for cell in _CELLS:
        table.setdefault(cell.route, set()).add(cell.method)
    assert table == _routes()


@pytest.fixture
def objects() -> SimpleNamespace:
    """What the paths of the table name. All of it is in the log."""
    task, author = Task.objects.create(title="a task"), person()
    comment = Comment.objects.create(task=task, author=author, body="somebody else's")
    label = Label.objects.create(name="a label")
    record()
    event = Entry.objects.get(subject_type="task").event_id
    return SimpleNamespace(task=task.pk, comment=comment.pk, person=author.pk, label=label.pk, event=event)


def _with_token(user, **changed) -> Api:
    caller = Api(user)
    ApiToken.objects.filter(user=user).update(**changed)
    return caller


def _with_session(user) -> Api:
    caller = Api(None)
    caller.client.force_login(user)
    return caller


# Who asks, and whose column says what is answered.
_ASKING = {
    "nobody": ("nobody", lambda: Api(None)),
    "expired token": ("nobody", lambda: _with_token(person("admin"), expires_at=timezone.now() - timedelta(seconds=1))),
    "token of a deactivated admin": ("nobody", lambda: Api(person("admin", is_active=False))),
    "session of a deactivated admin": ("nobody", lambda: _with_session(person("admin", is_active=False))),
    "superuser, token": ("admin", lambda: Api(person(is_superuser=True))),
    "superuser, session": ("admin", lambda: _with_session(person(is_superuser=True))),
}
for _role in _CALLERS[1:]:
    _ASKING[f"{_role}, token"] = (_role, lambda role=_role: Api(_person(role)))
    _ASKING[f"{_role}, session"] = (_role, lambda role=_role: _with_session(_person(role)))


def _person(column: str):
    return person(None if column == "no group" else column)


def _status(caller: Api, method: str, path: str, route: str) -> int:
    """What it changes is undone."""
    body = _BODIES.get(route, {"title": "x"}) if method in _WRITES - {"DELETE"} else b""
    with transaction.atomic():
        response = caller.send(method, path, body)
        if response.streaming:
            b"".join(response)
        transaction.set_rollback(True)
    if response.status_code >= 400 and method != "HEAD":
        problem(response, response.status_code)
    return response.status_code


@pytest.mark.parametrize("asking", _ASKING)
def test_caller_by_method_by_route(objects, asking):
    column, make = _ASKING[asking]
    caller, wrong = make(), []
    for cell in _CELLS:
        path = cell.path.format(**vars(objects))
        for method in ["GET", "HEAD"] if cell.method == "GET" else [cell.method]:
            status = _status(caller, method, path, cell.route)
            if status != cell.statuses[column]:
                wrong.append(f"{method} {path}: {status}, not {cell.statuses[column]}")
    assert not wrong


@pytest.mark.parametrize(("asking", "status"), [("nobody", 401), ("member, token", 405), ("admin, token", 405)])
def test_a_method_that_a_route_does_not_have(objects, asking, status):
    caller = _ASKING[asking][1]()
    routes = {cell.route: cell.path for cell in _CELLS if cell.statuses["nobody"] == 401}
    have = _routes()
    answers = {
        (route, method): _status(caller, method, path.format(**vars(objects)), route)
        for route, path in routes.items()
        for method in ("GET", *_WRITES)
        if method not in have[route]
    }
    assert answers
    assert {key: found for key, found in answers.items() if found != status} == {}


_EXPECTED = {
    "viewer": {Right.READ_TASKS},
    "member": {Right.READ_TASKS, Right.WRITE_TASKS},
    "auditor": {Right.READ_TASKS, Right.READ_AUDIT},
    "admin": {Right.READ_TASKS, Right.WRITE_TASKS, Right.READ_AUDIT, Right.MODERATE},
}


def test_the_roles_are_the_ones_that_were_agreed():
    assert {name: set(role.rights) for name, role in roles.ROLES.items()} == _EXPECTED


def test_groups_add_up_and_a_group_of_another_name_gives_nothing():
    user = person("auditor")
    user.groups.add(Group.objects.get(name="member"), Group.objects.create(name="admins"))
    assert roles.rights_of(user) == frozenset(Right) - {Right.MODERATE}
    other = person()
    other.groups.add(Group.objects.get(name="admins"))
    assert roles.rights_of(other) == frozenset()


def test_a_method_without_a_right_is_denied(monkeypatch):
    from tasks.api.views import TaskViewSet

    monkeypatch.setattr(TaskViewSet, "rights", {"GET": Right.READ_TASKS})
    problem(Api(person(is_superuser=True)).post({"title": "x"}), 405)


def test_the_groups_have_the_permissions_that_the_console_asks_for():
    for name, role in roles.ROLES.items():
        user = person(name)
        assert user.get_group_permissions() == role.permissions, name
    assert person("viewer").has_perm("tasks.view_task")
    assert not person("viewer").has_perm("tasks.change_task")
    assert not person("member").has_perm("audit.view_entry")


def test_migrating_again_takes_nothing_away_and_mends_what_is_missing():
    Group.objects.get(name="viewer").delete()
    member = Group.objects.get(name="member")
    extra = Group.objects.get(name="admin").permissions.get(codename="view_outboxevent")
    member.permissions.add(extra)
    call_command("migrate", verbosity=0)
    assert person("viewer").has_perm("tasks.view_task")
    assert extra in member.permissions.all()
    assert Group.objects.filter(name__in=roles.ROLES).count() == 4
