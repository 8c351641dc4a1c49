"""The console's list of tasks: its columns, filters, search and acts on several at once."""

from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.contrib.postgres.fields import ArrayField
from django.db.models import BigIntegerField, F, Func, JSONField
from django.db.models.expressions import RawSQL
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import ngettext
from unfold.decorators import action, display

from taskpulse.changelist import RecordedAdmin
from taskpulse.templatetags.console import utc
from tasks.admin_labels import dot
from tasks.api.search import newest
from tasks.labels import bearing
from tasks.models import Priority, Status

STATUS_COLOURS = {"pending": "warning", "in_progress": "info", "completed": "success"}
PRIORITY_COLOURS = {"low": "default", "medium": "info", "high": "danger"}
PEOPLE_IN_FILTER = 50


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
        return bearing(queryset, self.value()) if self.value() else queryset


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


class TaskList(RecordedAdmin):
    key_type = UUID
    list_display = ["title", "status_label", "priority_label", "assignee", "label_chips", "progress", "updated"]
    list_filter = ["status", "priority", AssigneeFilter, LabelFilter]
    list_defer = ("description", "summary")
    search_fields = ["title"]  # so that there is a search; what it looks at, `get_search_results` says
    search_help_text = "Words of a task, or its id"
    actions = ["mark_completed", "set_priority_high", "set_priority_medium", "set_priority_low"]

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


def _found(typed: str, queryset) -> RawSQL:
    """The keys of what the API would find, among the tasks of the queryset: by the index of words, at a cost that does not grow
    with the table."""
    among, values = "WHERE", ()
    if queryset.query.where:
        keys, values = queryset.order_by().values("pk").query.get_compiler(queryset.db).as_sql()
        among = f"WHERE s.task_id IN ({keys}) AND"
    return RawSQL(f"SELECT task_id FROM ({newest(typed, among)}) found", values)  # noqa: S608, S611 (literals are quoted)
