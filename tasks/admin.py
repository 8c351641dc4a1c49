"""The console's page of tasks; `admin_outbox` and `admin_tokens` hold the others of this app.

`TaskAdmin` is registered by `audit`, which knows a task's history and shows it beside the form.
"""

from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied
from django.db import DataError, IntegrityError
from django.db.models import BigIntegerField, F, Func, JSONField
from django.db.models.expressions import RawSQL
from django.http import HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import ngettext
from unfold.decorators import action, display

from taskpulse.changelist import RecordedAdmin
from taskpulse.templatetags.console import utc
from tasks import admin_comments, admin_outbox, admin_tokens  # noqa: F401 (they register their pages)
from tasks.admin_labels import dot
from tasks.api.search import newest
from tasks.forms import TaskForm, is_key
from tasks.models import Comment, Priority, Status

STATUS_COLOURS = {"pending": "warning", "in_progress": "info", "completed": "success"}
PRIORITY_COLOURS = {"low": "default", "medium": "info", "high": "danger"}
PEOPLE_IN_FILTER = 50
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


class AssigneeFilter(admin.SimpleListFilter):
    title = "assignee"
    parameter_name = "assignee"

    def lookups(self, request, model_admin):
        people = get_user_model()._default_manager.filter(is_active=True).order_by("username")
        return [("me", "Me"), ("nobody", "Nobody"), *people.values_list("username", "username")[:PEOPLE_IN_FILTER]]

    def queryset(self, request, queryset):
        match self.value():
            case None:
                return queryset
            case "me":
                return queryset.filter(assignee=request.user)
            case "nobody":
                return queryset.filter(assignee=None)
            case name:
                person = get_user_model()._default_manager.filter(username=name).first()
                return queryset.filter(assignee=person) if person else queryset.none()


class LabelFilter(admin.SimpleListFilter):
    """Chosen by a click on a label: a list of all labels would read all tasks."""

    title = "label"
    parameter_name = "label"

    def lookups(self, request, model_admin):
        chosen = self.used_parameters.get(self.parameter_name)
        return [(chosen, chosen)] if chosen else []

    def has_output(self):
        return True

    def queryset(self, request, queryset):
        return queryset.filter(labels__contains=[self.value()]) if self.value() else queryset


# Of the labels that are known by more than their name: name to colour.
_COLOURS = Func(
    F("labels"),
    template="(SELECT jsonb_object_agg(l.name, l.colour) FROM tasks_label l WHERE l.name = ANY (%(expressions)s))",
    output_field=JSONField(),
)
_SUBTASK_COUNTS = Func(
    F("pk"),
    template="(SELECT ARRAY[count(*), count(*) FILTER (WHERE s.status = 'completed')] FROM tasks_task s "
    "WHERE s.parent_id = %(expressions)s)",
    output_field=ArrayField(BigIntegerField()),
)


class TaskAdmin(RecordedAdmin):
    form = TaskForm
    key_type = UUID
    list_display = ["title", "status_label", "priority_label", "assignee", "label_chips", "progress", "updated"]
    list_filter = ["status", "priority", AssigneeFilter, LabelFilter]
    list_defer = ("description", "summary")
    search_fields = ["title"]  # so that there is a search; what it looks at, `get_search_results` says
    search_help_text = "Words of a task, or its id"
    autocomplete_fields = ["parent"]
    readonly_fields = ["progress"]
    actions = ["mark_completed", "set_priority_high", "set_priority_medium", "set_priority_low"]
    fieldsets = [
        (None, {"fields": ["read_version", "title", "description", "status", "priority", "labels", "assignee", "due_at"]}),
        ("More", {"fields": ["parent", "progress", "category", "summary"], "classes": ["collapse"]}),
    ]

    # The list

    @display(description="Status", label=STATUS_COLOURS)
    def status_label(self, task):
        return task.status, task.get_status_display()

    @display(description="Priority", label=PRIORITY_COLOURS)
    def priority_label(self, task):
        return task.priority, task.get_priority_display()

    @display(description="Labels")
    def label_chips(self, task):
        colours = task.colours or {}
        links = ((f"?{urlencode({'label': label})}", dot(colours.get(label)), label) for label in task.labels[:8])
        more = f" +{len(task.labels) - 8}" if len(task.labels) > 8 else ""
        chips = format_html_join("", '<a class="tp-chip" href="{}">{}{}</a>', links)
        return format_html('<span class="tp-chips">{}{}</span>', chips, more)

    @display(description="Subtasks")
    def progress(self, task):
        """How many are completed, of how many; of the present, so no part of the task."""
        if not hasattr(task, "subtask_counts"):  # in the form, whose template asks for it several times
            task.subtask_counts = self.model.objects.filter(pk=task.pk).values_list(_SUBTASK_COUNTS, flat=True).first() or (0, 0)
        total, completed = task.subtask_counts
        if not total:
            return "–"
        link = f"{reverse('admin:tasks_task_changelist')}?{urlencode({'parent__id__exact': task.pk})}"
        return format_html('<a class="tp-link" href="{}">{} of {} completed</a>', link, completed, total)

    def segments(self, queryset):
        """With what the page shows of other tables, in the same statement."""
        return [queryset.annotate(colours=_COLOURS, subtask_counts=_SUBTASK_COUNTS)]

    @display(description="Updated")
    def updated(self, task):
        return utc(task.updated_at)

    def get_search_results(self, request, queryset, search_term):
        if request.GET.get("field_name") == "parent":
            queryset = queryset.filter(parent=None)
        typed = search_term.strip()
        if not typed:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(typed)), False
        except ValueError:
            return queryset.filter(pk__in=_found(typed, queryset)), False

    @action(description="Mark completed", permissions=["change"])
    def mark_completed(self, request, queryset):
        self._update(request, queryset.exclude(status=Status.COMPLETED), status=Status.COMPLETED)

    @action(description="Set priority high", permissions=["change"])
    def set_priority_high(self, request, queryset):
        self._update(request, queryset.exclude(priority=Priority.HIGH), priority=Priority.HIGH)

    @action(description="Set priority medium", permissions=["change"])
    def set_priority_medium(self, request, queryset):
        self._update(request, queryset.exclude(priority=Priority.MEDIUM), priority=Priority.MEDIUM)

    @action(description="Set priority low", permissions=["change"])
    def set_priority_low(self, request, queryset):
        self._update(request, queryset.exclude(priority=Priority.LOW), priority=Priority.LOW)

    def _update(self, request, queryset, **values):
        """`QuerySet.update()`: one event for each task that changes."""
        count = queryset.update(**values)
        self.message_user(request, ngettext("%d task changed.", "%d tasks changed.", count) % count, messages.SUCCESS)

    # The form

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


def _found(typed: str, queryset) -> RawSQL:
    """The keys of what the API would find, among the tasks of the queryset: by the index of words, at a cost that does not grow
    with the table."""
    among, values = "WHERE", ()
    if queryset.query.where:
        keys, values = queryset.order_by().values("pk").query.get_compiler(queryset.db).as_sql()
        among = f"WHERE s.task_id IN ({keys}) AND"
    return RawSQL(f"SELECT task_id FROM ({newest(typed, among)}) found", values)  # noqa: S608, S611 (literals are quoted)


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
