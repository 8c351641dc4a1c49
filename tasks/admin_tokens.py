"""The console's page of the API tokens."""

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import display

from taskpulse.templatetags.console import utc
from tasks.models import ApiToken


@admin.register(ApiToken)
class ApiTokenAdmin(ModelAdmin):
    """A token is issued and deleted, never changed; its secret is in one answer and nowhere else."""

    list_display = ["name", "id", "user", "created", "expires", "is_valid"]
    list_select_related = ["user"]
    search_fields = ["=id", "=user__username"]
    search_help_text = "Token id or user name"
    autocomplete_fields = ["user"]
    fields = ["user", "name", "expires_at"]
    ordering = ["-created_at", "pk"]
    show_full_result_count = False
    list_disable_select_all = True

    def has_change_permission(self, request, obj=None):
        return False

    @display(description="Created")
    def created(self, token):
        return utc(token.created_at)

    @display(description="Expires")
    def expires(self, token):
        return utc(token.expires_at)

    @display(description="Valid", boolean=True)
    def is_valid(self, token):
        return token.expires_at is None or token.expires_at > timezone.now()

    def save_model(self, request, obj, form, change):
        if change:
            raise PermissionDenied
        token, request.taskpulse_secret = ApiToken.issue(obj.user, obj.name, obj.expires_at)
        obj.pk, obj.created_at = token.pk, token.created_at

    def response_add(self, request, obj, post_url_continue=None):
        context = self.admin_site.each_context(request) | {
            "title": "API token issued", "opts": self.opts, "token": obj, "secret": request.taskpulse_secret,
        }  # fmt: skip
        return TemplateResponse(request, "tasks/token_issued.html", context)  # never cached, as every page of the console
