"""A task's page with its history beside it; `admin_entries` and `admin_dead_letters` hold the other pages of this app."""

from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.template.response import TemplateResponse

from audit import (
    admin_dead_letters,  # noqa: F401 (registers its page)
    admin_entries,  # noqa: F401 (registers its page)
    readable,
)
from tasks.admin import TaskAdmin
from tasks.models import Task

HISTORY_BESIDE = 20  # changes shown beside the form
HISTORY_PAGE = 50


@admin.register(Task)
class HistoricTaskAdmin(TaskAdmin):
    """A task's form with its history beside it; `tasks` itself knows nothing of the log."""

    change_form_template = "audit/task_change_form.html"

    def render_change_form(self, request, context, add=False, change=False, form_url="", obj=None):
        if obj is not None:
            context["history"] = changes = readable.history(obj.pk, HISTORY_BESIDE)
            stale = getattr(context["adminform"].form, "stale_version", None)
            context["stale_version"] = stale
            context["meanwhile"] = [
                change for change in changes
                if stale is not None and change.subject_type == Task.subject_type and (change.version or 0) > stale
            ]  # fmt: skip
            context["show_history"] = False
        return super().render_change_form(request, context, add, change, form_url, obj)

    def history_view(self, request, object_id, extra_context=None):
        """The whole history by keyset, of a deleted task too."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            key = UUID(unquote(object_id))
            before = int(request.GET["after"]) if "after" in request.GET else None
        except ValueError:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if before is not None and not 0 < before < 2**63:
            before = 1
        task = Task.objects.filter(pk=key).only("title").first()
        changes = readable.entries(key, HISTORY_PAGE + 1, before)
        waiting = readable.pending(key, HISTORY_PAGE) if before is None else []
        if task is None and not changes and not waiting:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        known = {str(change.event_id) for change in changes}
        more = changes[HISTORY_PAGE - 1].seq if len(changes) > HISTORY_PAGE else None
        context = self.admin_site.each_context(request) | {
            "title": f"History of {task.title if task else 'a deleted task'}", "opts": self.opts, "task": task, "task_id": key,
            "history": [change for change in waiting if str(change.event_id) not in known] + changes[:HISTORY_PAGE], "older": more,
        }  # fmt: skip
        return TemplateResponse(request, "audit/task_history.html", context | (extra_context or {}))
