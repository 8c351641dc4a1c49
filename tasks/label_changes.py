"""A label renamed or deleted: on the tasks that bear it too, each with its event, by one `update()`.

Who adds the old name to a task at the same moment has added a label of that name
afterwards: labels are free.
"""

from collections.abc import Iterator

from django.contrib.postgres.fields import ArrayField
from django.db import models, transaction
from django.db.models import F, Func, Value

from tasks.labels import Label, bearing
from tasks.models import Task

# As many tasks are changed at once: all of them stay locked until it is done.
MOST_TASKS = 5_000


class TooManyTasks(Exception):
    """More than MOST_TASKS tasks bear the label. The caller's transaction, in which it is raised, is to be rolled back."""


class _Renamed(Func):
    """The labels with one renamed, each once, where it stood first."""

    template = (
        "ARRAY(SELECT l FROM unnest(array_replace(%(expressions)s)) WITH ORDINALITY AS u (l, n) GROUP BY l ORDER BY min(n))"
        "::varchar(64)[]"
    )
    output_field = ArrayField(models.CharField())


class _Without(Func):
    function = "array_remove"
    output_field = ArrayField(models.CharField())


def save(label: Label) -> int:
    """Saves the label; if it has another name now, the tasks that bear the old one bear the new. Returns how many do."""
    before = label._loaded["name"]
    label.save()
    return 0 if label.name == before else _on_tasks(before, label.name)


def delete(label: Label) -> int:
    """Deletes the label, and takes it from the tasks that bear it. Returns how many did."""
    label.delete()
    return _on_tasks(label.name, None)


def in_steps(name: str, new_name: str | None) -> Iterator[int]:
    """Renames the label, or deletes it where there is no new name, on any number of tasks: in a transaction of its own the
    label, and in one each MOST_TASKS tasks. Yields after each of these how many tasks have been changed so far."""
    if name == new_name:
        return
    with transaction.atomic():
        for label in Label.objects.select_for_update().filter(name=name):
            if new_name is None:
                label.delete()
            else:
                label.name = new_name
                label.save()
    borne, changed = bearing(Task.objects.order_by(), name), 0
    while keys := list(borne.values_list("pk", flat=True)[:MOST_TASKS]):
        changed += borne.filter(pk__in=keys).update(labels=_changed(name, new_name))
        yield changed


def _on_tasks(name: str, new_name: str | None) -> int:
    borne = bearing(Task.objects.order_by(), name)
    if len(borne.values_list("pk")[MOST_TASKS : MOST_TASKS + 1]):
        raise TooManyTasks
    return borne.update(labels=_changed(name, new_name))


def _changed(name: str, new_name: str | None) -> Func:
    if new_name is None:
        return _Without(F("labels"), Value(name))
    return _Renamed(F("labels"), Value(name), Value(new_name))
