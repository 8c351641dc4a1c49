"""The console's page of the outbox: what waits for the audit log, and the held rows that a person releases."""

from django.contrib import admin, messages
from django.utils.html import format_html
from django.utils.translation import ngettext
from unfold.decorators import action, display

from taskpulse.changelist import ReadOnlyAdmin
from taskpulse.templatetags.console import utc
from tasks import outbox
from tasks.models import OutboxEvent


class HeldFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request, model_admin):
        return [("held", "Held"), ("unpublished", "Not published yet"), ("published", "Published, not recorded yet")]

    def queryset(self, request, queryset):
        match self.value():
            case "held":
                return queryset.filter(held_at__isnull=False)
            case "unpublished":
                return queryset.filter(held_at=None, published_at=None)
            case "published":
                return queryset.filter(held_at=None, published_at__isnull=False)
        return queryset


@admin.register(OutboxEvent)
class OutboxAdmin(ReadOnlyAdmin):
    keyset = "pk"
    list_display = ["subject", "version", "state", "held_reason", "attempts", "created", "published"]
    list_filter = [HeldFilter]
    list_defer = ("payload", "digest")
    list_before_template = "taskpulse/outbox_header.html"
    actions = ["release"]
    fields = [
        "event_id",
        "subject",
        "version",
        "state",
        "held_reason",
        "attempts",
        "created",
        "published",
        "held",
        "event",
        "sha256",
    ]
    readonly_fields = fields

    def segments(self, queryset):
        """Held rows first: they wait for a person."""
        return [queryset.filter(held_at__isnull=False), queryset.filter(held_at=None)]

    def changelist_view(self, request, extra_context=None):
        return super().changelist_view(request, {"outbox": outbox.state()} | (extra_context or {}))

    def render_change_form(self, request, context, add=False, change=False, form_url="", obj=None):
        if obj is not None and obj.held_at is not None:
            outbox.look(obj.pk)
        return super().render_change_form(request, context, add, change, form_url, obj)

    @display(description="Subject")
    def subject(self, event):
        return f"{event.subject_type}/{event.subject_id}"

    @display(description="State", label={"held": "danger", "published": "info", "waiting": "warning"})
    def state(self, event):
        return "held" if event.held_at else "published" if event.published_at else "waiting"

    @display(description="Created")
    def created(self, event):
        return utc(event.created_at)

    @display(description="Published")
    def published(self, event):
        return utc(event.published_at)

    @display(description="Held since")
    def held(self, event):
        return utc(event.held_at)

    @display(description="Event (canonical JSON)")
    def event(self, event):
        return format_html('<pre class="tp-raw">{}</pre>', bytes(event.payload).decode())

    @display(description="Digest (SHA-256)")
    def sha256(self, event):
        return format_html('<code class="tp-hex">{}</code>', bytes(event.digest).hex())

    def has_release_permission(self, request):
        return request.user.has_perm("tasks.change_outboxevent")

    @action(description="Release", permissions=["release"])
    def release(self, request, queryset):
        count = outbox.release(list(queryset.values_list("pk", flat=True)))
        self.message_user(request, ngettext("%d event released.", "%d events released.", count) % count, messages.SUCCESS)
