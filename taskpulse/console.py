"""The console's frame: navigation by permission, and the dashboard. Named in settings.UNFOLD."""

from django.apps import apps
from django.db import connection
from django.templatetags.static import static
from django.urls import reverse

from tasks import outbox
from tasks.models import Status, Task

LISTED = 10


def stylesheet(request) -> str:
    return static("taskpulse/console.css")


def icon(request) -> str:
    return static("taskpulse/icon.svg")


def navigation(request) -> list[dict]:
    """What the person may see, and nothing else."""
    may = request.user.has_perm
    work = [
        _item("Dashboard", "dashboard", reverse("admin:index"), True),
        _item("Tasks", "checklist", reverse("admin:tasks_task_changelist"), may("tasks.view_task")),
        _item("Labels", "label", reverse("admin:tasks_label_changelist"), may("tasks.view_label")),
    ]
    record = [
        _item("Audit log", "history_edu", reverse("admin:audit_entry_changelist"), may("audit.view_entry")),
        _item("Outbox", "outbox", reverse("admin:tasks_outboxevent_changelist"), may("tasks.view_outboxevent")),
        _item("Dead letters", "report", reverse("admin:audit_deadletter_changelist"), may("audit.view_deadletter")),
    ]
    people = [
        _item("Users", "person", reverse("admin:auth_user_changelist"), may("auth.view_user")),
        _item("Groups", "group", reverse("admin:auth_group_changelist"), may("auth.view_group")),
        _item("API tokens", "key", reverse("admin:tasks_apitoken_changelist"), may("tasks.view_apitoken")),
        _item("API documentation", "api", reverse("docs"), True),
    ]
    return [{"title": title, "items": items} for title, items in (("Work", work), ("Record", record), ("Access", people))]


def _item(title: str, icon: str, link: str, allowed: bool) -> dict:
    return {"title": title, "icon": icon, "link": link, "permission": lambda request: allowed}


def dashboard(request, context: dict) -> dict:
    """A fixed number of statements, each bounded."""
    may = request.user.has_perm
    context |= {"outbox": None, "dead_letters": None, "last_entries": None, "my_tasks": None}
    if may("tasks.view_task"):
        mine = Task.objects.filter(assignee=request.user).exclude(status=Status.COMPLETED).only("title", "status")
        context["my_tasks"] = list(mine[:LISTED])
    if may("tasks.view_outboxevent"):
        context["outbox"] = outbox.state()
    if may("audit.view_deadletter"):
        context["dead_letters"] = _dead_letters()
    if may("audit.view_entry"):
        context |= _log()
    return context


def _dead_letters() -> list[tuple[str, int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reason, count(*) FROM (SELECT reason FROM audit_dead_letter ORDER BY id DESC LIMIT %s) newest "
            "GROUP BY reason ORDER BY reason",
            [outbox.COUNTED + 1],
        )
        return cursor.fetchall()


def _log() -> dict:
    from audit.admin_entries import EntryTitle

    entry = apps.get_model("audit", "Entry")
    rows = entry.objects.order_by("-seq").annotate(task_name=EntryTitle("event_data"))
    head = apps.get_model("audit", "LogHead").objects.order_by("-first_seq").first()
    newest = list(rows.only("seq", "actor_name", "actor_id", "event_type", "occurred_at")[:LISTED])
    return {"last_entries": newest, "log_size": head.first_seq - 1 + head.size if head else 0}
