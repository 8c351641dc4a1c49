"""The console's page of labels, and how a label looks wherever it is shown."""

from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.db import IntegrityError, transaction
from django.http import HttpResponseRedirect
from django.utils.html import format_html
from unfold import widgets
from unfold.decorators import display

from taskpulse.changelist import RecordedAdmin
from tasks import label_changes
from tasks.labels import COLOUR_PATTERN, DEFAULT_COLOUR, LABEL_LENGTH
from tasks.models import Label

_TOO_MANY = (
    f"Nothing was changed: more than {label_changes.MOST_TASKS:,} tasks bear this label, which would all stay locked. "
    "`manage.py labels` renames and deletes a label on any number of tasks."
)
_TAKEN = "Nothing was changed: somebody has just given another label this name."


def dot(colour: str | None):
    """A spot of the label's colour. An attribute of SVG, since a page's policy may forbid styles in it."""
    if colour is None:
        return ""
    return format_html(
        '<svg class="tp-dot" viewBox="0 0 8 8" aria-hidden="true"><circle cx="4" cy="4" r="4" fill="{}"/></svg>', colour
    )


class NameField(forms.CharField):
    """A name as tasks bear it: white space at its ends, which a program may have given it, is no edit."""

    def has_changed(self, initial, data) -> bool:
        return super().has_changed((initial or "").strip(), data)


class LabelForm(forms.ModelForm):
    read_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    name = NameField(max_length=LABEL_LENGTH, widget=widgets.UnfoldAdminTextInputWidget)
    colour = forms.CharField(initial=DEFAULT_COLOUR, widget=widgets.UnfoldAdminColorInputWidget)

    class Meta:
        model = Label
        fields = ["name", "colour", "description"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.is_change = not self.instance._state.adding
        if self.is_change:
            self.initial["read_version"] = self.instance.version

    def clean_name(self):
        return self.cleaned_data["name"] if "name" in self.changed_data else self.instance.name

    def clean_colour(self):
        colour = self.cleaned_data["colour"].lower()
        if not COLOUR_PATTERN.fullmatch(colour):
            raise forms.ValidationError("Expected a colour as #d73a4a")
        return colour

    def clean(self):
        cleaned = super().clean()
        if self.is_change and cleaned.get("read_version") != self.instance.version:
            self.data = self.data.copy()
            self.data[self.add_prefix("read_version")] = str(self.instance.version)
            now = Label.objects.get(pk=self.instance.pk)
            raise forms.ValidationError(
                f"Nothing is saved yet: this label has changed since you opened it. It is “{now.name}”, {now.colour}, "
                f"“{now.description}” now. What you typed is still here; save again to put it in its place.",
                code="stale",
            )
        return cleaned


@admin.register(Label)
class LabelAdmin(RecordedAdmin):
    form = LabelForm
    keyset = "name"
    key_type = str
    ordering = ["name"]
    list_display = ["shown_name", "description"]
    search_fields = ["name", "description"]
    fields = ["read_version", "name", "colour", "description"]

    @display(description="Label", ordering="name")
    def shown_name(self, label):
        return format_html("{} {}", dot(label.colour), label.name)

    def get_fields(self, request, obj=None):
        may = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        return self.fields if may else self.fields[1:]

    def get_object(self, request, object_id, from_field=None):
        """A save locks the row before it compares versions, so that nobody changes it between the two."""
        if request.method != "POST":
            return super().get_object(request, object_id, from_field)
        try:
            return self.get_queryset(request).select_for_update().filter(pk=UUID(object_id)).first()
        except ValueError:
            return None

    def save_model(self, request, obj, form, change):
        if change:
            label_changes.save(obj)
        else:
            obj.save(force_insert=True)

    def delete_model(self, request, obj):
        label_changes.delete(obj)

    def delete_queryset(self, request, queryset):
        with transaction.atomic():
            for label in queryset.select_for_update():
                label_changes.delete(label)

    def changeform_view(self, request, object_id=None, form_url="", extra_context=None):
        return self._told(request, super().changeform_view, request, object_id, form_url, extra_context)

    def delete_view(self, request, object_id, extra_context=None):
        return self._told(request, super().delete_view, request, object_id, extra_context)

    def changelist_view(self, request, extra_context=None):
        return self._told(request, super().changelist_view, request, extra_context)

    def _told(self, request, view, *arguments):
        """What cannot be done is told on the page that asked for it; it is rolled back by then."""
        try:
            return view(*arguments)
        except label_changes.TooManyTasks:
            refusal = _TOO_MANY
        except IntegrityError as error:
            if error.__cause__.diag.constraint_name != "label_name":
                raise
            refusal = _TAKEN
        self.message_user(request, refusal, messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())
