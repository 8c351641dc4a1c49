"""Who may do what: every role on every method of every resource, from the one table of `taskpulse.roles`."""

import uuid

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.urls import get_resolver

from taskpulse import roles
from taskpulse.roles import Right
from tests.api_client import Api, person, problem

pytestmark = pytest.mark.django_db

# What each request needs, and its answer for who has it.
_TASK = "/api/tasks/{task}"
_REQUESTS = [
    ("GET", "/api/tasks", Right.READ_TASKS, 200),
    ("HEAD", "/api/tasks", Right.READ_TASKS, 200),
    ("POST", "/api/tasks", Right.WRITE_TASKS, 201),
    ("GET", _TASK, Right.READ_TASKS, 200),
    ("PUT", _TASK, Right.WRITE_TASKS, 200),
    ("PATCH", _TASK, Right.WRITE_TASKS, 200),
    ("DELETE", _TASK, Right.WRITE_TASKS, 204),
    ("GET", f"{_TASK}?version=1", Right.READ_TASKS, 200),
    ("GET", f"{_TASK}/history", Right.READ_TASKS, 200),
    ("GET", f"{_TASK}/audited", Right.READ_TASKS, 200),
    ("GET", "/api/audit", Right.READ_AUDIT, 200),
    ("GET", f"/api/audit/{uuid.UUID(int=7)}", Right.READ_AUDIT, 404),
    ("GET", "/api/audit/export", Right.READ_AUDIT, 200),
    ("GET", f"/api/audit/{uuid.UUID(int=7)}/proof", Right.READ_AUDIT, 404),
    ("GET", "/audit/checkpoint", Right.READ_AUDIT, 404),
    ("GET", "/audit/tile/0/000", Right.READ_AUDIT, 404),
    ("GET", "/audit/tile/entries/000.p/1", Right.READ_AUDIT, 404),
]
_EXPECTED = {
    "viewer": {Right.READ_TASKS},
    "member": {Right.READ_TASKS, Right.WRITE_TASKS},
    "auditor": {Right.READ_TASKS, Right.READ_AUDIT},
    "admin": {Right.READ_TASKS, Right.WRITE_TASKS, Right.READ_AUDIT},
}


def test_the_table_is_the_one_that_was_agreed():
    assert {name: set(role.rights) for name, role in roles.ROLES.items()} == _EXPECTED


def _task() -> str:
    return Api(person(is_superuser=True)).create()["id"]


@pytest.mark.parametrize("by_session", [False, True], ids=["token", "session"])
@pytest.mark.parametrize(("method", "path", "right", "status"), _REQUESTS)
@pytest.mark.parametrize("role", [*roles.ROLES, None, "superuser"])
def test_role_by_method_by_endpoint(role, method, path, right, status, by_session):
    user = person(is_superuser=True) if role == "superuser" else person(role)
    caller = Api(None if by_session else user)
    if by_session:
        caller.client.force_login(user)
    allowed = role == "superuser" or (role is not None and right in _EXPECTED[role])
    body = {"title": "x"} if method in {"POST", "PUT", "PATCH"} else b""
    response = caller.send(method, path.format(task=_task()), body)
    if allowed:
        assert response.status_code == status, response.content
    elif method == "HEAD":
        assert response.status_code == 403
    else:
        problem(response, 403)


@pytest.mark.parametrize(("method", "path", "right", "status"), _REQUESTS)
def test_nobody_in_particular_may_do_nothing(method, path, right, status):
    caller = Api(None)
    assert caller.send(method, path.format(task=uuid.UUID(int=7)), b"").status_code == 401


def test_groups_add_up_and_a_group_of_another_name_gives_nothing():
    user = person("auditor")
    user.groups.add(Group.objects.get(name="member"), Group.objects.create(name="admins"))
    assert roles.rights_of(user) == frozenset(Right)
    other = person()
    other.groups.add(Group.objects.get(name="admins"))
    assert roles.rights_of(other) == frozenset()


def test_every_resource_of_the_api_names_its_rights():
    """A path below /api/ that this test's table does not know would be open or dead."""
    open_paths = {"schema", "docs"}
    for pattern in (p for resolver in get_resolver().url_patterns for p in getattr(resolver, "url_patterns", [resolver])):
        view = getattr(pattern.callback, "cls", None)
        if view is None or pattern.name in open_paths:
            continue
        methods = {method.upper() for method in pattern.callback.actions} - {"HEAD"}
        assert methods <= set(view.rights), pattern.name


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
