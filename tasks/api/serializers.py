"""The task as the API shows and takes it.

The declared fields are the published shape (OpenAPI); the rules that run are those of `tasks.api.validation`, once over
the body, since DRF's own field machinery costs more than the rest of a request.
"""

from rest_framework import serializers

from taskpulse.errors import InvalidBody
from tasks.api import validation
from tasks.around import BODY_LENGTH
from tasks.labels import COLOUR, DEFAULT_COLOUR, LABEL_DESCRIPTION_LENGTH
from tasks.models import CATEGORY_LENGTH, DESCRIPTION_LENGTH, LABEL_LENGTH, LABELS, SUMMARY_LENGTH, TITLE_LENGTH, Priority, Status

# A text that `str.strip` leaves something of. Spelt out, since `\s` is another set in each dialect of regular expressions: that of
# JSON Schema (ECMA-262) lacks U+001C to U+001F and U+0085, and has U+FEFF.
NOT_BLANK = r"[^\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


class PersonSerializer(serializers.Serializer):
    id = serializers.RegexField(r"^[0-9]{1,10}$", help_text="A body may give it as a number too.")
    name = serializers.CharField(required=False, help_text="Ignored in a body.")


class AssigneeField(serializers.Field):
    """Published by `tasks.api.schema.AssigneeShape`."""


class TaskSerializer(serializers.Serializer):
    """PUT and PATCH both change the fields given. Output-only fields in a body are ignored, unknown ones refused."""

    assignee = AssigneeField(required=False, help_text="Who is to do it. A body may give the object, the bare id, or null.")
    category = serializers.CharField(max_length=CATEGORY_LENGTH, required=False, allow_null=True, allow_blank=True)
    completed_at = serializers.DateTimeField(read_only=True, allow_null=True)
    created_at = serializers.DateTimeField(read_only=True)
    created_by = PersonSerializer(read_only=True, allow_null=True)
    description = serializers.CharField(
        max_length=DESCRIPTION_LENGTH, required=False, allow_blank=True, trim_whitespace=False, default=""
    )
    due_at = serializers.DateTimeField(required=False, allow_null=True, help_text="RFC 3339 with a zone; shown in UTC.")
    id = serializers.UUIDField(read_only=True)
    labels = serializers.ListField(
        child=serializers.CharField(max_length=LABEL_LENGTH),
        max_length=LABELS,
        required=False,
        help_text="Repetitions are dropped, the order is kept.",
    )
    parent = serializers.UUIDField(required=False, allow_null=True, help_text="The task that this is a subtask of; one level deep.")
    priority = serializers.ChoiceField(Priority.choices, required=False, default=Priority.MEDIUM)
    status = serializers.ChoiceField(Status.choices, required=False, default=Status.PENDING)
    summary = serializers.CharField(max_length=SUMMARY_LENGTH, required=False, allow_null=True, allow_blank=True)
    title = serializers.RegexField(NOT_BLANK, max_length=TITLE_LENGTH, help_text="Trimmed.")
    updated_at = serializers.DateTimeField(read_only=True)
    version = serializers.IntegerField(read_only=True, min_value=1, help_text="1, 2, 3 … without a gap; the ETag begins with it.")

    def to_internal_value(self, data) -> dict:
        """Raises InvalidBody with every wrong field."""
        values, errors = validation.validate(data, self.partial)
        if not self.partial and "title" not in data:
            errors.append({"pointer": "#/title", "detail": validation.required(TITLE_LENGTH)})
        if errors:
            raise InvalidBody(errors)
        return values

    def run_validation(self, data=serializers.empty) -> dict:
        return self.to_internal_value(data)


class TaskChangeSerializer(TaskSerializer):
    """A change: null makes of a field what a task has that was created without it."""

    description = serializers.CharField(
        max_length=DESCRIPTION_LENGTH, required=False, allow_blank=True, trim_whitespace=False, allow_null=True
    )
    labels = serializers.ListField(
        child=serializers.CharField(max_length=LABEL_LENGTH),
        max_length=LABELS,
        required=False,
        allow_null=True,
        help_text="Repetitions are dropped, the order is kept.",
    )
    priority = serializers.ChoiceField(Priority.choices, required=False, allow_null=True)
    status = serializers.ChoiceField(Status.choices, required=False, allow_null=True)


class OfTaskSerializer(serializers.Serializer):
    """What a comment and a watcher have in common."""

    created_at = serializers.DateTimeField(read_only=True)
    id = serializers.UUIDField(read_only=True)
    task = serializers.UUIDField(read_only=True, help_text="The task that it belongs to.")
    updated_at = serializers.DateTimeField(read_only=True)
    version = serializers.IntegerField(read_only=True, min_value=1, help_text="Its own, not the task's.")


class CommentSerializer(OfTaskSerializer):
    """Published shape; the rule that runs is `tasks.api.validation.comment_body`."""

    author = PersonSerializer(read_only=True)
    body = serializers.RegexField(NOT_BLANK, max_length=BODY_LENGTH, trim_whitespace=False, help_text="Kept as written; not blank.")


class WatcherSerializer(OfTaskSerializer):
    user = PersonSerializer(read_only=True)


class LabelSerializer(serializers.Serializer):
    """Published shape; the rules that run are in `tasks.api.labels`."""

    colour = serializers.RegexField(COLOUR, required=False, default=DEFAULT_COLOUR, help_text="Shown in lower case.")
    description = serializers.CharField(
        max_length=LABEL_DESCRIPTION_LENGTH, required=False, allow_blank=True, trim_whitespace=False, default=""
    )
    id = serializers.UUIDField(read_only=True)
    name = serializers.CharField(
        max_length=LABEL_LENGTH, trim_whitespace=False, help_text='As tasks bear it: "Bug" and "bug" are two labels.'
    )
    updated_at = serializers.DateTimeField(read_only=True)
    version = serializers.IntegerField(read_only=True, min_value=1, help_text="1, 2, 3 … without a gap; also the ETag.")


class LabelChangeSerializer(LabelSerializer):
    """A change: what is left out stays, so that nothing here has a default; null makes one of it."""

    colour = serializers.RegexField(COLOUR, required=False, allow_null=True, help_text="Shown in lower case.")
    description = serializers.CharField(
        max_length=LABEL_DESCRIPTION_LENGTH, required=False, allow_blank=True, trim_whitespace=False, allow_null=True
    )
