"""The console's page of the audit log: read only, by keyset, each page at a bounded cost."""

import hashlib
from datetime import timedelta
from string import Template
from uuid import UUID

from django.contrib import admin
from django.db.models import CharField, Func, JSONField, Max, Q
from django.db.models.fields.json import KeyTextTransform
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import display

from audit import readable, redaction
from audit.models import Entry
from audit.verification.drift import audited_models
from taskpulse.changelist import KeysetChangeList, ReadOnlyAdmin
from taskpulse.templatetags.console import utc
from tasks import events

WINDOW = 200_000  # entries that a search without an index reads at most for one page
ACTION_COLOURS = {"created": "success", "updated": "info", "deleted": "danger"}


class EventTypeFilter(admin.SimpleListFilter):
    title = "type"
    parameter_name = "type"

    def lookups(self, request, model_admin):
        subjects = sorted(model.subject_type for model in audited_models())
        kinds = [(f"{kind}.{action}", f"{kind.capitalize()} {action}") for kind in subjects for action in events.ACTIONS]
        return [*kinds, ("audit.", "Audit acts")]

    def queryset(self, request, queryset):
        value = self.value()
        if value is None:
            return queryset
        return queryset.filter(event_type__startswith=value) if value.endswith(".") else queryset.filter(event_type=value)


class ActorTypeFilter(admin.SimpleListFilter):
    title = "actor type"
    parameter_name = "actor_type"

    def lookups(self, request, model_admin):
        return [("user", "User"), ("system", "System (a command)"), ("database", "Database (raw SQL)"), ("model", "Model (AI)")]

    def queryset(self, request, queryset):
        return queryset.filter(actor_type=self.value()) if self.value() else queryset


class TimeFilter(admin.SimpleListFilter):
    title = "time"
    parameter_name = "within"
    spans = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}

    def lookups(self, request, model_admin):
        return [("hour", "Last hour"), ("day", "Last 24 hours"), ("week", "Last 7 days"), ("month", "Last 30 days")]

    def queryset(self, request, queryset):
        span = self.spans.get(self.value())
        return queryset.filter(occurred_at__gte=timezone.now() - span) if span else queryset


class EntryChangeList(KeysetChangeList):
    """What no index serves is searched in a window of the log, so that a page never costs a walk through all of it."""

    window = None

    def get_results(self, request):
        indexed = getattr(request, "taskpulse_indexed", False)
        if self.get_filters_params(dict(self.filter_params)) or (self.query and not indexed):
            cursor = self.cursor()
            top = cursor[1] if cursor else (Entry.objects.aggregate(top=Max("seq"))["top"] or 0)
            bottom = max(top - WINDOW, 0)
            if not indexed:
                self.queryset = self.queryset.filter(seq__gt=bottom)
                self.window = (bottom + 1, top)
        super().get_results(request)
        if self.window:
            self.newer = None  # the browser's own way back is exact; a window upwards is not
            if self.older is None and self.window[0] > 1:
                self.older = self.get_query_string({"after": f"0.{self.window[0]}"})


class ChangedFields(Func):
    """`[[field, from, to], …]` of an entry as text, each value cut at 60 characters by PostgreSQL: a list must not carry
    payloads."""

    _text = (
        "left(CASE jsonb_typeof(c.value -> '{0}') WHEN 'array'"
        " THEN (SELECT string_agg(e, ', ') FROM jsonb_array_elements_text(c.value -> '{0}') e)"
        " ELSE coalesce(c.value #>> '{{{0},name}}', c.value ->> '{0}') END, 60)"
    )
    template = Template(
        "(SELECT jsonb_agg(jsonb_build_array(c.key, $before, $after) ORDER BY c.key)"
        " FROM jsonb_each(CASE jsonb_typeof(%(expressions)s #> '{data,changes}') WHEN 'object'"
        " THEN %(expressions)s #> '{data,changes}' END) c)"
    ).substitute(before=_text.format("from"), after=_text.format("to"))
    output_field = JSONField()


class EntryTitle(Func):
    """What people call the subject: a task by its title, a comment by how it begins."""

    template = "left(coalesce(%(expressions)s #>> '{data,task,title}', %(expressions)s #>> '{data,comment,body}'), 100)"
    output_field = CharField()


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ["seq", "action_label", "task_title", "summary", "actor", "occurred"]
    list_display_links = ["seq", "task_title"]
    list_filter = [EventTypeFilter, ActorTypeFilter, TimeFilter]
    list_defer = ("event_data", "digest", "leaf_hash")
    list_before_template = "audit/entry_window.html"
    search_fields = ["event_id"]
    search_help_text = "Event id, task id, actor id or name, #seq"
    fieldsets = [
        ("Change", {"fields": ["change"]}),
        (
            "Entry",
            {
                "fields": [
                    "seq",
                    "event_id",
                    "event_type",
                    "subject",
                    "task",
                    "actor_line",
                    "request_id",
                    "occurred",
                    "processed",
                    "place",
                ]
            },
        ),
        ("Proof", {"fields": ["digest_hex", "leaf_hash_hex", "canonical_json"]}),
    ]
    readonly_fields = [
        "change", "event_id", "subject", "task", "actor_line", "occurred", "processed", "place", "digest_hex", "leaf_hash_hex",
        "canonical_json",
    ]  # fmt: skip

    def get_changelist(self, request, **kwargs):
        return EntryChangeList

    def segments(self, queryset):
        return [
            queryset.annotate(
                changed=ChangedFields("event_data"),
                task_name=EntryTitle("event_data"),
                erased=KeyTextTransform(redaction.MARKER, "event_data"),
            )
        ]

    def get_search_results(self, request, queryset, search_term):
        """Exact ids only: each by its index, save the actor's, which is searched in a window."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.startswith("#") and term[1:].isascii() and term[1:].isdigit() and len(term) < 20:
            request.taskpulse_indexed = True
            return queryset.filter(seq=int(term[1:])), False
        try:
            key = UUID(term)
        except ValueError:
            return queryset.filter(Q(actor_id=term) | Q(actor_name=term)), False
        request.taskpulse_indexed = True
        found = Entry.objects.filter(event_id=key).order_by().values_list("seq", flat=True).first()
        return (queryset.filter(seq=found) if found is not None else queryset.filter(task_id=key)), False

    # The list

    @display(description="Type", label={**ACTION_COLOURS, "discarded": "warning"})
    def action_label(self, entry):
        action = entry.event_type.rpartition(".")[2]
        return action if action in ACTION_COLOURS or action == "discarded" else entry.event_type

    @display(description="Subject")
    def task_title(self, entry):
        return entry.task_name or f"{entry.subject_type}/{entry.subject_id}"

    @display(description="Changes")
    def summary(self, entry):
        changed = [
            (readable.label(name), readable.shown_of(name, before), readable.shown_of(name, after))
            for name, before, after in entry.changed or []
        ]
        created = entry.event_type.endswith(".created")
        shown = {"entry": entry, "created": created, "changed": changed[:6], "count": len(changed)}
        return render_to_string("audit/summary.html", shown)

    @display(description="Actor")
    def actor(self, entry):
        return entry.actor_name or entry.actor_id

    @display(description="Occurred")
    def occurred(self, entry):
        return utc(entry.occurred_at)

    # One entry

    @display(description="Recorded")
    def processed(self, entry):
        return utc(entry.processed_at)

    @display(description="Fields")
    def change(self, entry):
        return render_to_string(
            "audit/changes.html", {"change": readable.of_entry(entry), "perms": {"audit": {"view_entry": True}}}
        )

    @display(description="Subject")
    def subject(self, entry):
        version = "" if entry.version is None else f", version {entry.version}"
        return f"{entry.subject_type}/{entry.subject_id}{version}"

    @display(description="Task")
    def task(self, entry):
        if entry.task_id is None:
            return None
        return format_html(
            '<a class="tp-link" href="{}">{}</a>', reverse("admin:tasks_task_history", args=[entry.task_id]), entry.task_id
        )

    @display(description="Actor")
    def actor_line(self, entry):
        if redaction.accounted_by(entry.event_data) is not None:
            return f"redacted (id {entry.actor_id})"
        return f"{entry.actor_name or entry.actor_id} ({entry.actor_type}, id {entry.actor_id})"

    @display(description="Kafka")
    def place(self, entry):
        return f"{entry.topic}, partition {entry.partition}, offset {entry.offset}"

    @display(description="Digest (SHA-256)")
    def digest_hex(self, entry):
        if redaction.accounted_by(entry.event_data) is not None:
            return format_html('<code class="tp-hex">{}</code> of the redacted event', bytes(entry.digest).hex())
        matches = hashlib.sha256(events.canonical(entry.event_data)).digest() == bytes(entry.digest)
        verdict = ("tp-good", "matches the event") if matches else ("tp-bad", "does NOT match the event: run verify_audit")
        return format_html('<code class="tp-hex">{}</code> <span class="{}">{}</span>', bytes(entry.digest).hex(), *verdict)

    @display(description="Leaf hash")
    def leaf_hash_hex(self, entry):
        return format_html('<code class="tp-hex">{}</code>', bytes(entry.leaf_hash).hex())

    @display(description="Event")
    def canonical_json(self, entry):
        fold = '<details class="tp-fold"><summary>Canonical JSON (RFC 8785)</summary><pre class="tp-raw">{}</pre></details>'
        return format_html(fold, events.canonical(entry.event_data).decode())
