"""The console's page of dead letters."""

from django.contrib import admin
from django.db.models import Func, IntegerField
from django.utils.html import format_html, format_html_join
from unfold.decorators import display

from audit import dead_letters
from audit.dead_letter_acts import discard, look
from audit.models import DeadLetter
from taskpulse.changelist import RecordedAdmin
from taskpulse.printable import printable
from taskpulse.templatetags.console import utc

SHOWN_BYTES = 4_000  # of a value


class OctetLength(Func):
    function = "octet_length"
    output_field = IntegerField()


@admin.register(DeadLetter)
class DeadLetterAdmin(RecordedAdmin):
    """What arrived and is no true event. Looked at, and discarded; both are recorded."""

    list_display = ["received", "reason_label", "detail", "place", "size"]
    list_filter = ["reason"]
    list_defer = ("key", "value", "headers")
    list_before_template = "taskpulse/dead_letters_header.html"
    fields = ["reason_label", "detail", "place", "received", "key_shown", "value_shown", "headers_shown", "digest_hex"]
    readonly_fields = fields

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def segments(self, queryset):
        return [queryset.annotate(octets=OctetLength("value"))]

    def get_actions(self, request):
        actions = super().get_actions(request)
        if "delete_selected" in actions:
            function, name, _ = actions["delete_selected"]
            actions["delete_selected"] = (function, name, "Discard")
        return actions

    def get_queryset(self, request):
        # Values are up to a megabyte each: they are read when one of them is shown.
        return super().get_queryset(request).defer("key", "value")

    def changelist_view(self, request, extra_context=None):
        return super().changelist_view(request, {"dead_letters": dead_letters.state()} | (extra_context or {}))

    def delete_model(self, request, obj):
        discard([obj.pk])

    def delete_queryset(self, request, queryset):
        discard(list(queryset.values_list("pk", flat=True)))

    def history_view(self, request, object_id, extra_context=None):
        return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)

    def change_view(self, request, object_id, form_url="", extra_context=None):
        return super().change_view(request, object_id, form_url, {"show_history": False} | (extra_context or {}))

    def render_change_form(self, request, context, add=False, change=False, form_url="", obj=None):
        if obj is not None:
            look(obj.pk)
        return super().render_change_form(request, context, add, change, form_url, obj)

    @display(description="Reason", label={"malformed": "warning", "foreign": "info", "altered": "danger", "forged": "danger"})
    def reason_label(self, letter):
        return letter.reason

    @display(description="Received")
    def received(self, letter):
        return utc(letter.received_at)

    @display(description="From")
    def place(self, letter):
        return f"{letter.topic}/{letter.partition}/{letter.offset}"

    @display(description="Bytes")
    def size(self, letter):
        return f"{letter.octets or 0:,}"

    @display(description="Key")
    def key_shown(self, letter):
        return _raw(letter.key)

    @display(description="Value")
    def value_shown(self, letter):
        return _raw(letter.value)

    @display(description="Headers")
    def headers_shown(self, letter):
        rows = [(name, printable(bytes.fromhex(value or ""), SHOWN_BYTES)) for name, value in letter.headers[:50]]
        return format_html('<dl class="tp-headers">{}</dl>', format_html_join("", "<dt>{}</dt><dd>{}</dd>", rows)) if rows else None

    @display(description="SHA-256 of the value")
    def digest_hex(self, letter):
        return format_html('<code class="tp-hex">{}</code>', bytes(letter.value_digest).hex())


def _raw(raw) -> str | None:
    if raw is None:
        return None
    return format_html('<pre class="tp-raw">{}</pre>', printable(bytes(raw), SHOWN_BYTES))
