"""The console's form of a task: every rule that the database keeps, said at its field, and no lost update.

The form carries the version and the values that were read. Only what the person changed is written; and when the task
has moved on meanwhile, nothing is, until the person has seen what changed and saves again.
"""

import csv
import io
from uuid import UUID

from django import forms
from django.contrib.auth import get_user_model
from unfold import widgets

from tasks import transitions
from tasks.models import CATEGORY_LENGTH, DESCRIPTION_LENGTH, LABEL_LENGTH, LABELS, SUMMARY_LENGTH, TITLE_LENGTH, Task

# The names offered while typing; any active user can be typed in full.
NAMES_OFFERED = 200


class LabelsField(forms.CharField):
    """Labels as text: separated by commas, one that holds a comma in double quotes (RFC 4180)."""

    def to_python(self, value) -> list[str]:
        if isinstance(value, list):
            return value
        text = super().to_python(value)
        try:
            words = next(csv.reader([" ".join(text.splitlines())], skipinitialspace=True, strict=True), [])
        except csv.Error:
            raise forms.ValidationError("A double quote is not closed: write labels as: billing, “a, b” in double quotes") from None
        return list(dict.fromkeys(word.strip() for word in words if word.strip()))

    def prepare_value(self, value):
        if not isinstance(value, list | tuple):
            return value
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return line.getvalue().replace(",", ", ") if not any("," in label for label in value) else line.getvalue()

    def has_changed(self, initial, data) -> bool:
        try:
            return list(initial or []) != self.to_python(data)
        except forms.ValidationError:
            return True

    def validate(self, value):
        super().validate(value)
        if len(value) > LABELS:
            raise forms.ValidationError(f"A task has at most {LABELS} labels; these are {len(value)}")
        for label in value:
            if len(label) > LABEL_LENGTH:
                raise forms.ValidationError(f"A label has at most {LABEL_LENGTH} characters; “{label[:20]}…” has {len(label)}")

    def run_validators(self, value):
        for label in value:
            super().run_validators(label)


class PersonField(forms.ModelChoiceField):
    """A person by user name, with names offered while one types: no select of a whole staff, no right to list it needed."""

    widget = widgets.UnfoldAdminTextInputWidget
    default_error_messages = {"invalid_choice": "No active user has this name"}

    def __init__(self, **options):
        people = get_user_model()._default_manager.filter(is_active=True).order_by("username")
        super().__init__(queryset=people, to_field_name="username", **options)

    def prepare_value(self, value):
        if isinstance(value, int):
            return self.queryset.model._default_manager.filter(pk=value).values_list("username", flat=True).first()
        return super().prepare_value(value)

    def names(self):
        return list(self.queryset.values_list("username", flat=True)[:NAMES_OFFERED])


class TitleField(forms.CharField):
    """One line of text. A title that a program gave several lines is shown without their ends: that alone is no change."""

    def has_changed(self, initial, data) -> bool:
        return super().has_changed("".join((initial or "").splitlines()), data) and super().has_changed(initial, data)


class ProseWidget(widgets.UnfoldAdminTextareaWidget):
    """With a line end after the tag, since browsers drop the first (HTML, 13.2.6.4.7)."""

    template_name = "tasks/prose.html"


class ProseField(forms.CharField):
    """Text of several lines, kept as typed: four spaces before the first line are Markdown. Browsers send CR LF (HTML,
    form submission); a task keeps LF."""

    def to_python(self, value):
        value = super().to_python(value)
        return value.replace("\r\n", "\n") if isinstance(value, str) else value


class MomentInput(forms.DateTimeInput):
    input_type = "datetime-local"

    def __init__(self):
        super().__init__({"class": " ".join(widgets.DATETIME_CLASSES), "step": "1"}, format="%Y-%m-%dT%H:%M:%S")


def is_key(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _prose(rows: int, **options) -> ProseField:
    return ProseField(required=False, strip=False, widget=ProseWidget({"rows": rows}), **options)


class TaskForm(forms.ModelForm):
    read_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    title = TitleField(max_length=TITLE_LENGTH, widget=widgets.UnfoldAdminTextInputWidget)
    description = _prose(8, max_length=DESCRIPTION_LENGTH)
    summary = _prose(2, max_length=SUMMARY_LENGTH, empty_value=None)
    category = forms.CharField(
        required=False, max_length=CATEGORY_LENGTH, empty_value=None, widget=widgets.UnfoldAdminTextInputWidget
    )
    labels = LabelsField(
        required=False,
        widget=widgets.UnfoldAdminTextInputWidget,
        help_text="Separated by commas, such as: billing, customer-visible",
    )
    assignee = PersonField(required=False, help_text="A user name")
    due_at = forms.DateTimeField(required=False, label="Due at (UTC)", widget=MomentInput, help_text="In UTC")

    class Meta:
        model = Task
        fields = ["title", "description", "status", "priority", "labels", "assignee", "due_at", "parent", "category", "summary"]

    # Set by the admin for one request: what the database refused in spite of the form's checks.
    refusal: str | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stale_version: int | None = None
        self.merged: list[str] = []
        self.is_change = not self.instance._state.adding
        if self.is_change:
            self.initial["read_version"] = self.instance.version
            for name, field in self.fields.items():
                field.show_hidden_initial = name != "read_version"
        if "assignee" in self.fields:
            assignee = self.fields["assignee"]
            assignee.widget.attrs |= {"list": "people", "autocomplete": "off"}
            if self.instance.assignee_id is not None:
                # One who has been deactivated since keeps the task until it is given to another.
                assignee.queryset |= assignee.queryset.model._default_manager.filter(pk=self.instance.assignee_id)

    def full_clean(self):
        super().full_clean()
        if self.data.get(self.add_prefix("parent")) and not is_key(self.data[self.add_prefix("parent")]):
            # The select of parents looks its value up, and fails for what is no key; the field has its error by now.
            self.data = self.data.copy()
            self.data[self.add_prefix("parent")] = ""

    def clean(self):
        cleaned = super().clean()
        if self.refusal:
            raise forms.ValidationError(self.refusal, code="refused")
        if not self.is_change:
            return cleaned
        if cleaned.get("read_version") != self.instance.version:
            self._rebase()
            raise forms.ValidationError(
                "Nothing is saved yet: this task has changed since you opened it. What you typed is still here, and the fields "
                "that you had not touched show the present values. Look at the changes, then save again.",
                code="stale",
            )
        # Only what the person changed is written; a value that this form cannot show in full stays as it is.
        changed = set(self.changed_data)
        return {name: value for name, value in cleaned.items() if name in changed}

    def clean_status(self):
        status = self.cleaned_data["status"]
        # A form that is stale is shown again in any case, with the present status.
        if self.is_change and (wrong := transitions.refusal(self.instance.status, status)):
            raise forms.ValidationError(wrong[0].upper() + wrong[1:])
        return status

    def clean_parent(self):
        parent = self.cleaned_data["parent"]
        if parent is None or "parent" not in self.changed_data:
            return parent
        if parent.pk == self.instance.pk:
            raise forms.ValidationError("A task is not its own parent")
        if parent.parent_id is not None:
            raise forms.ValidationError("Subtasks are one level deep: this task is a subtask itself")
        if self.is_change and self.instance.subtasks.exists():
            raise forms.ValidationError("Subtasks are one level deep: this task has subtasks")
        return parent

    def validate_constraints(self):
        """Left to the database: the fields check the same, and some rules speak of what only its triggers decide."""

    def _rebase(self) -> None:
        """Takes the present row for the one that was read: typed values stay, all others follow the row."""
        self.stale_version = self.cleaned_data.get("read_version")
        typed = set(self.changed_data)
        data = self.data.copy()
        for name, field in self.fields.items():
            if name == "read_version":
                continue
            value = self._shown(field, self.get_initial_for_field(field, name))
            data[self.add_initial_prefix(name)] = value
            if name not in typed:
                if self._normal(field, data.get(self.add_prefix(name), "")) != self._normal(field, value):
                    self.merged.append(name)
                data[self.add_prefix(name)] = value
        data[self.add_prefix("read_version")] = str(self.instance.version)
        self.data = data

    @property
    def merged_labels(self) -> list[str]:
        """The fields that a stale form took over from the present row, as the page names them."""
        return [self[name].label for name in self.merged]

    def _normal(self, field, sent: str) -> str:
        """A value as sent, in the form of `_shown`: browsers leave out seconds that are zero, and send CR LF."""
        try:
            return self._shown(field, field.to_python(sent))
        except forms.ValidationError:
            return sent

    @staticmethod
    def _shown(field, value) -> str:
        """The value as the form's page would send it back untouched."""
        shown = field.widget.format_value(field.prepare_value(value))
        if isinstance(shown, list | tuple):
            shown = shown[0] if shown else ""
        return "" if shown is None else str(shown)
