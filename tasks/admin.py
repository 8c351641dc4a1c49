"""The console's form of a task; `admin_task_list` holds the list, `admin_outbox` and `admin_tokens` other pages of this app.

`TaskAdmin` is registered by `audit`, which knows a task's history and shows it beside the form.
"""

from uuid import UUID

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import DataError, IntegrityError
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import ngettext

from tasks import admin_comments, admin_outbox, admin_tokens  # noqa: F401 (they register their pages)
from tasks.admin_task_list import TaskList
from tasks.forms import TaskForm, is_key
from tasks.models import Comment

# What was typed into the form of a task that is gone, kept for the form of a new one.
_TYPED = "taskpulse_typed"

# A comment that could not be taken, for the form of the page that is shown next.
_COMMENT = "taskpulse_comment"

# The rules that only the database can decide, in people's words.
_REFUSALS = {
    "task_parent_one_level": "Subtasks are one level deep: the parent is a subtask itself, or this task has subtasks.",
    "task_not_its_own_parent": "A task is not its own parent.",
    "task_status_transition": "A completed task is reopened as in progress.",
    "task_labels": "Labels: at most 50, each of 1 to 64 characters.",
    "task_title_not_empty": "The title is empty.",
    "task_years": "Due at: the year lies between 1 and 9999.",
}


class TaskAdmin(TaskList):
    form = TaskForm
    autocomplete_fields = ["parent"]
    readonly_fields = ["progress"]
    fieldsets = [
        (None, {"fields": ["read_version", "title", "description", "status", "priority", "labels", "assignee", "due_at"]}),
        ("More", {"fields": ["parent", "progress", "category", "summary"], "classes": ["collapse"]}),
    ]

    def get_fieldsets(self, request, obj=None):
        fieldsets = super().get_fieldsets(request, obj)
        if self.has_change_permission(request, obj) if obj else self.has_add_permission(request):
            return fieldsets
        # Who only reads has no form, so nothing of it that is no field of a task.
        (name, options), *rest = fieldsets
        return [(name, options | {"fields": options["fields"][1:]}), *rest]

    def get_form(self, request, obj=None, change=False, **kwargs):
        form = super().get_form(request, obj, change, **kwargs)
        form.refusal = getattr(request, "taskpulse_refusal", None)
        return form

    def get_queryset(self, request):
        return super().get_queryset(request).select_related("assignee")

    def get_object(self, request, object_id, from_field=None):
        """A save locks the row before it compares versions, so that nobody changes it between the two."""
        if request.method != "POST" or not request.resolver_match.url_name.endswith("_change"):
            return super().get_object(request, object_id, from_field)
        try:
            key = UUID(object_id)
        except ValueError:
            return None
        return self.get_queryset(request).select_for_update(of=("self",)).filter(pk=key).first()

    def changeform_view(self, request, object_id=None, form_url="", extra_context=None):
        if request.method == "POST" and object_id and self._is_gone(request, unquote(object_id)):
            return self._offer_as_new(request)
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except (IntegrityError, DataError) as error:
            # All is rolled back; the form is shown again with what the database said.
            request.taskpulse_refusal = _refusal(error)
            return super().changeform_view(request, object_id, form_url, extra_context)

    def _is_gone(self, request, object_id: str) -> bool:
        try:
            return self.has_add_permission(request) and not self.get_queryset(request).filter(pk=UUID(object_id)).exists()
        except ValueError:
            return False

    def _offer_as_new(self, request):
        """The task was deleted while somebody edited it: what they typed goes into the form of a new task."""
        typed = {name: request.POST[name] for name in TaskForm.Meta.fields if request.POST.get(name)}
        request.session[_TYPED] = typed
        self.message_user(
            request,
            "Nothing is saved: this task was deleted while you edited it. What you typed is below; saving makes a new task.",
            messages.WARNING,
        )
        return HttpResponseRedirect(reverse("admin:tasks_task_add"))

    def get_deleted_objects(self, objs, request):
        """Names its subtasks by their number: the database deletes them."""
        shown, counts, *others = super().get_deleted_objects(objs, request)
        count = self.model.objects.filter(parent__in=objs).count()
        if count:
            shown.append(ngettext("%d subtask", "%d subtasks", count) % count)
            counts["subtasks"] = count
        return shown, counts, *others

    # Comments

    def get_urls(self):
        view = self.admin_site.admin_view(self.comment_view)
        return [path("<path:object_id>/comment/", view, name="tasks_task_comment"), *super().get_urls()]

    def render_change_form(self, request, context, add=False, change=False, form_url="", obj=None):
        if obj is not None and request.user.has_perm("tasks.view_comment"):
            context |= admin_comments.on_page_of(request, obj)
            if context["comment_form"] and _COMMENT in request.session:
                context["comment_form"].initial["body"] = request.session.pop(_COMMENT)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def comment_view(self, request, object_id):
        """Takes a comment from the task's page, and leads back there."""
        if request.method != "POST" or not (self.has_view_permission(request) and request.user.has_perm("tasks.add_comment")):
            raise PermissionDenied
        task = self.get_object(request, object_id) if is_key(object_id) else None
        if task is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        form = admin_comments.CommentForm(request.POST)
        if form.is_valid():
            try:
                Comment.objects.create(task=task, author=request.user, body=form.cleaned_data["body"])
            except IntegrityError as error:
                if error.__cause__.diag.constraint_name != "comment_task":
                    raise
                return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        else:
            request.session[_COMMENT] = request.POST.get("body", "")
            self.message_user(request, f"Nothing is saved: {' '.join(form.errors.get('body', []))}", messages.ERROR)
        return HttpResponseRedirect(reverse("admin:tasks_task_change", args=[task.pk]))

    def get_changeform_initial_data(self, request):
        initial = super().get_changeform_initial_data(request) | request.session.pop(_TYPED, {})
        return {name: value for name, value in initial.items() if name != "parent" or is_key(value)}

    def save_model(self, request, obj, form, change):
        if not change:
            obj.created_by = request.user
        super().save_model(request, obj, form, change)


def _refusal(error: Exception) -> str:
    """Raises `error` again unless it names a rule of a task: a fault of ours must not look like the person's."""
    diagnosis = getattr(error.__cause__, "diag", None)
    name = getattr(diagnosis, "constraint_name", None) or ""
    if name in _REFUSALS:
        return _REFUSALS[name]
    if name.startswith("task_") or isinstance(error, DataError):
        return f"The database refuses this: {getattr(diagnosis, 'message_primary', None) or 'a value is outside its limits'}"
    if (getattr(error.__cause__, "sqlstate", None) or "") == "23503":  # foreign_key_violation
        return "The assignee or the parent was deleted meanwhile."
    raise error
