"""The source of change: a task is one row and one document."""

from datetime import UTC, datetime

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Length

from tasks import people
from tasks.around import Comment, Watcher
from tasks.audited import AuditedModel, DecidedDateTimeField
from tasks.deletion import Tombstone
from tasks.events import MOMENT, rfc3339, uuid7
from tasks.kept_answers import KeptAnswer
from tasks.labels import LABEL_LENGTH, Label
from tasks.outbox import OutboxEvent
from tasks.tokens import ApiToken

__all__ = ["ApiToken", "Comment", "KeptAnswer", "Label", "OutboxEvent", "Priority", "Status", "Task", "Tombstone", "Watcher"]

TITLE_LENGTH = 255
DESCRIPTION_LENGTH = 20_000
CATEGORY_LENGTH = 64
SUMMARY_LENGTH = 2_000
LABELS = 50

models.CharField.register_lookup(Length)
models.TextField.register_lookup(Length)


class Priority(models.TextChoices):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Status(models.TextChoices):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def _within_years(*names: str) -> Q:
    """Python's datetime, RFC 3339 and the log's text form all end at the years 1 and 9999; PostgreSQL's do not."""
    condition = Q()
    for name in names:
        condition &= Q(**{f"{name}__isnull": True}) | Q(**{f"{name}__gte": _FIRST, f"{name}__lte": _LAST})
    return condition


class Task(AuditedModel):
    subject_type = "task"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    title = models.CharField(max_length=TITLE_LENGTH)
    description = models.TextField(blank=True, default="", max_length=DESCRIPTION_LENGTH)
    priority = models.CharField(max_length=6, choices=Priority, default=Priority.MEDIUM)
    status = models.CharField(max_length=11, choices=Status, default=Status.PENDING)
    category = models.CharField(max_length=CATEGORY_LENGTH, null=True, blank=True)
    summary = models.TextField(null=True, blank=True, max_length=SUMMARY_LENGTH)
    labels = ArrayField(models.CharField(max_length=LABEL_LENGTH), size=LABELS, default=list, blank=True)
    assignee = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="assigned_tasks", db_index=False
    )
    # Subtasks go with their parent: the database deletes them (see the migration) and its capture writes their events, so that a
    # deletion costs this process the same however many there are.
    parent = models.ForeignKey("self", models.DO_NOTHING, null=True, blank=True, related_name="subtasks", db_index=False)
    due_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, editable=False, related_name="created_tasks", db_index=False
    )
    created_at = DecidedDateTimeField(editable=False)
    completed_at = DecidedDateTimeField(null=True, editable=False)

    class Meta(AuditedModel.Meta):
        # Newest first: the key is time-ordered (UUIDv7).
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(title__length__gte=1), name="task_title_not_empty"),
            models.CheckConstraint(condition=Q(description__length__lte=DESCRIPTION_LENGTH), name="task_description_length"),
            models.CheckConstraint(condition=Q(summary__length__lte=SUMMARY_LENGTH), name="task_summary_length"),
            models.CheckConstraint(condition=Q(priority__in=Priority.values), name="task_priority"),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="task_status"),
            models.CheckConstraint(
                condition=Q(status=Status.COMPLETED, completed_at__isnull=False)
                | (~Q(status=Status.COMPLETED) & Q(completed_at__isnull=True)),
                name="task_completed_at_with_status",
            ),
            models.CheckConstraint(condition=~Q(parent=F("id")), name="task_not_its_own_parent"),
            models.CheckConstraint(
                condition=_within_years("due_at", "created_at", "updated_at", "completed_at"), name="task_years"
            ),
            models.CheckConstraint(condition=Q(version__gte=1), name="task_version"),
        ]
        # What leads to a page of the API's lists (tasks/api/rows.py), whatever it is filtered and ordered by: `make plans` shows
        # each list's plan and what it looks at. A write pays about 6 µs for each, 60 to 90 for all (ARCHITECTURE.md, "What lists
        # and search cost a write"). The console filters by their first columns.
        indexes = [
            models.Index(fields=["created_at", "id"], name="task_created"),
            models.Index(fields=["status", "priority", "created_at", "id"], name="task_status_priority_created"),
            models.Index(fields=["assignee", "status", "created_at", "id"], name="task_assignee_status_created"),
            models.Index(fields=["created_by", "created_at", "id"], name="task_created_by_created"),
            models.Index(fields=["parent", "created_at", "id"], name="task_parent_created", condition=Q(parent__isnull=False)),
            models.Index(
                fields=["category", "created_at", "id"], name="task_category_created", condition=Q(category__isnull=False)
            ),
            models.Index(fields=["status", "due_at", "id"], name="task_status_due"),
            models.Index(fields=["assignee", "status", "due_at", "id"], name="task_assignee_status_due"),
            models.Index(fields=["status", "updated_at", "id"], name="task_status_updated"),
            models.Index(fields=["assignee", "status", "updated_at", "id"], name="task_assignee_status_updated"),
            models.Index(fields=["completed_at", "id"], name="task_completed"),
            models.Index(
                fields=["assignee", "completed_at", "id"],
                name="task_assignee_completed",
                condition=Q(completed_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def task_key(self):
        return self.pk

    def foretell(self, before: dict | None) -> dict:
        """As `taskpulse_decide()` and `task_derive()` decide (0003_database_roles.sql, 0011_transitions.sql)."""
        known = {"version": 0, "created_at": self.created_at, "completed_at": self.completed_at} if before is None else before
        return {
            "version": known["version"] + 1,
            "updated_at": MOMENT,
            "created_at": known["created_at"] or MOMENT,
            "completed_at": (known["completed_at"] or MOMENT) if self.status == Status.COMPLETED else None,
        }

    @classmethod
    def documents(cls, rows) -> list[dict]:
        """One more statement where a person's name is not at hand."""
        names = people.names(rows, "assignee", "created_by")
        return [row.document(names) for row in rows]

    def document(self, names: dict) -> dict:
        """The task as events, API and log show it."""
        return {
            "assignee": people.person(self.assignee_id, names),
            "category": self.category,
            "completed_at": rfc3339(self.completed_at),
            "created_at": rfc3339(self.created_at),
            "created_by": people.person(self.created_by_id, names),
            "description": self.description,
            "due_at": rfc3339(self.due_at),
            "id": str(self.pk),
            "labels": self.labels,
            "parent": None if self.parent_id is None else str(self.parent_id),
            "priority": self.priority,
            "status": self.status,
            "summary": self.summary,
            "title": self.title,
            "updated_at": rfc3339(self.updated_at),
            "version": self.version,
        }
