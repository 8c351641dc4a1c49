"""Comments at the console: shown and written on the task's page, changed on a page of their own by who wrote them, or an admin."""

from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.urls import reverse
from unfold.decorators import display

from taskpulse.changelist import RecordedAdmin
from taskpulse.roles import Right, rights_of
from taskpulse.templatetags.console import utc
from tasks.around import BODY_LENGTH
from tasks.forms import ProseField, ProseWidget
from tasks.models import Comment

BESIDE = 20  # comments shown on the task's page


class CommentForm(forms.ModelForm):
    """A change carries the version that was read; when the comment has moved on meanwhile, nothing is saved."""

    read_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    body = ProseField(
        strip=False, max_length=BODY_LENGTH, label="Comment", widget=ProseWidget({"rows": 4, "maxlength": BODY_LENGTH})
    )

    class Meta:
        model = Comment
        fields = ["body"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial["read_version"] = self.instance.version

    def clean_body(self) -> str:
        body = self.cleaned_data["body"]
        if not body.strip():
            raise forms.ValidationError("This comment is blank")
        return body

    def clean(self):
        cleaned = super().clean()
        if not self.instance._state.adding and cleaned.get("read_version") != self.instance.version:
            # What was typed stays; saving again is then on top of what is there now.
            self.data = self.data.copy()
            self.data["read_version"] = str(self.instance.version)
            raise forms.ValidationError(
                f"Nothing is saved yet: this comment has changed since you opened it. It says now: {self.instance.body}",
                code="stale",
            )
        return cleaned

    def validate_constraints(self):
        """Left to the database: the field checks the same."""


def may_change(request, comment: Comment) -> bool:
    return comment.author_id == request.user.pk or Right.MODERATE in rights_of(request.user)


def on_page_of(request, task) -> dict:
    """What the task's page shows of its comments: one statement, and one more for the role of who wrote not all of them."""
    found = list(task.comments.select_related("author")[: BESIDE + 1])
    changes = request.user.has_perm("tasks.change_comment")
    return {
        "comments": [(comment, changes and may_change(request, comment)) for comment in found[:BESIDE]],
        "more_comments": len(found) > BESIDE,
        "comment_form": CommentForm() if request.user.has_perm("tasks.add_comment") else None,
    }


@admin.register(Comment)
class CommentAdmin(RecordedAdmin):
    form = CommentForm
    key_type = UUID
    list_display = ["said", "task", "author", "written"]
    list_select_related = ["task", "author"]
    fields = ["read_version", "body"]
    actions = None

    @display(description="Comment")
    def said(self, comment):
        return str(comment)

    @display(description="Written")
    def written(self, comment):
        return utc(comment.created_at)

    def get_queryset(self, request):
        return super().get_queryset(request).select_related("author")

    def get_object(self, request, object_id, from_field=None):
        """A save locks the row before it compares versions."""
        try:
            key = UUID(object_id)
        except ValueError:
            return None
        found = self.get_queryset(request).filter(pk=key)
        return (found.select_for_update(of=("self",)) if request.method == "POST" else found).first()

    def get_fields(self, request, obj=None):
        return self.fields if self.has_change_permission(request, obj) else ["body"]

    # A comment is made on its task's page.
    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return super().has_change_permission(request, obj) and (obj is None or may_change(request, obj))

    def has_delete_permission(self, request, obj=None):
        return super().has_delete_permission(request, obj) and (obj is None or may_change(request, obj))

    def change_view(self, request, object_id, form_url="", extra_context=None):
        return super().change_view(request, object_id, form_url, {"show_save_and_continue": False} | (extra_context or {}))

    def history_view(self, request, object_id, extra_context=None):
        """That of the task, which has the comment's changes among its own."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        comment = self.get_object(request, object_id)
        if comment is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        return HttpResponseRedirect(reverse("admin:tasks_task_history", args=[comment.task_id]))

    def response_change(self, request, obj):
        self.message_user(request, "The comment is changed.", messages.SUCCESS)
        return _to_task(obj.task_id)

    def delete_model(self, request, obj):
        request.taskpulse_task = obj.task_id
        super().delete_model(request, obj)

    def response_delete(self, request, obj_display, obj_id):
        self.message_user(request, "The comment is deleted.", messages.SUCCESS)
        return _to_task(request.taskpulse_task)


def _to_task(key) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:tasks_task_change", args=[key]))
