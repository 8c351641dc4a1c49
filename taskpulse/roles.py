"""Roles: which group may do what, in the API (rights) and in the console (Django's model permissions).

`ROLES` is the only table: the API's permission class, the console's permissions and the tests all read it. What it does
not name is denied. A superuser is an admin.
"""

from dataclasses import dataclass
from enum import StrEnum

from django.apps import apps as installed
from django.contrib.auth.management import create_permissions
from django.db import router


class Right(StrEnum):
    READ_TASKS = "read tasks"
    WRITE_TASKS = "write tasks"
    READ_AUDIT = "read the audit log"
    MODERATE = "change what others wrote"


@dataclass(frozen=True, slots=True)
class Role:
    rights: frozenset[Right]
    # `app_label.codename`; made by Django for each model.
    permissions: frozenset[str]


def _permissions(model: str, *actions: str) -> frozenset[str]:
    app, name = model.split(".")
    return frozenset(f"{app}.{action}_{name}" for action in actions)


_WRITE = ("view", "add", "change", "delete")
_TASKS = ("tasks.task", "tasks.comment", "tasks.label")
_TASK_READER = frozenset().union(*(_permissions(model, "view") for model in _TASKS))
_TASK_WRITER = frozenset().union(*(_permissions(model, *_WRITE) for model in _TASKS))
_LOG_READER = _permissions("audit.entry", "view") | _permissions("audit.loghead", "view") | _permissions("audit.deadletter", "view")
_OPERATOR = _permissions("audit.deadletter", "delete") | _permissions("tasks.outboxevent", "view", "change")
_PEOPLE = (
    _permissions("auth.user", "view", "add", "change")
    | _permissions("auth.group", "view")
    | _permissions("tasks.apitoken", *_WRITE)
)

ROLES: dict[str, Role] = {
    "viewer": Role(frozenset({Right.READ_TASKS}), _TASK_READER),
    "member": Role(frozenset({Right.READ_TASKS, Right.WRITE_TASKS}), _TASK_WRITER),
    "auditor": Role(frozenset({Right.READ_TASKS, Right.READ_AUDIT}), _TASK_READER | _LOG_READER),
    "admin": Role(frozenset(Right), _TASK_WRITER | _LOG_READER | _OPERATOR | _PEOPLE),
}

_ALL = frozenset(Right)


def rights_of(user) -> frozenset[Right]:
    """The rights of the user's groups. `user.role_names`, if authentication left it there, saves a statement."""
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    if user.is_superuser:
        return _ALL
    names = getattr(user, "role_names", None)
    if names is None:
        names = user.role_names = frozenset(user.groups.values_list("name", flat=True))
    return frozenset().union(*(ROLES[name].rights for name in names if name in ROLES))


def make_groups(using="default", apps=installed, **_) -> None:
    """Receiver of `post_migrate`: makes the groups and gives them what the table says; takes nothing away.

    Runs for the last installed app, and makes the permissions that Django's own receiver may not have made yet.
    """
    try:
        group_model, permission_model = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    except LookupError:
        return  # a migration of one app alone: `auth` is not there yet
    if not router.allow_migrate_model(using, group_model):
        return
    for label in ("auth", "tasks", "audit"):
        create_permissions(installed.get_app_config(label), verbosity=0, interactive=False, using=using, apps=apps)
    known = {
        f"{permission.content_type.app_label}.{permission.codename}": permission.pk
        for permission in permission_model.objects.using(using).select_related("content_type")
    }
    for name, role in ROLES.items():
        group, _ = group_model.objects.using(using).get_or_create(name=name)
        group.permissions.add(*(known[permission] for permission in role.permissions if permission in known))
