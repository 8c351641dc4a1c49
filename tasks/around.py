"""What belongs to a task and is no field of it: comments and watchers, each a subject of its own.

They do not raise the task's version; their events bear its id, so that Kafka and the history keep them together. They go
with the task: the database deletes them (ON DELETE CASCADE) and its capture writes their events, as the actor of the
request, so that a deletion costs the same statements whether there are any or not.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q

from tasks import people
from tasks.audited import AuditedModel, DecidedDateTimeField
from tasks.events import rfc3339, uuid7

BODY_LENGTH = 10_000


class OfTask(AuditedModel):
    """A subject that belongs to one task for ever: the database refuses to give it to another."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # The migration makes the foreign key, which Django (until 6.1) cannot make with ON DELETE CASCADE.
    task = models.ForeignKey(
        "tasks.Task", models.DO_NOTHING, related_name="%(class)ss", db_index=False, db_constraint=False, editable=False
    )
    created_at = DecidedDateTimeField(editable=False)

    class Meta(AuditedModel.Meta):
        abstract = True

    @property
    def task_key(self):
        return self.task_id


class Comment(OfTask):
    """What somebody said about a task. Its author stays its author."""

    subject_type = "comment"

    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="comments", db_index=False, editable=False)
    body = models.TextField(max_length=BODY_LENGTH)

    class Meta(OfTask.Meta):
        # Newest first: the key is time-ordered (UUIDv7).
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(body__length__gte=1, body__length__lte=BODY_LENGTH), name="comment_body_length"),
        ]
        indexes = [
            models.Index(fields=["task", "id"], name="comment_of_task"),
            models.Index(fields=["author"], name="comment_author"),
        ]

    def __str__(self) -> str:
        return self.body[:80]

    @classmethod
    def documents(cls, rows) -> list[dict]:
        names = people.names(rows, "author")
        return [row.document(names) for row in rows]

    def document(self, names: dict) -> dict:
        """The comment as events, API and log show it."""
        return {
            "author": people.person(self.author_id, names),
            "body": self.body,
            "created_at": rfc3339(self.created_at),
            "id": str(self.pk),
            "task": str(self.task_id),
            "updated_at": rfc3339(self.updated_at),
            "version": self.version,
        }


class Watcher(OfTask):
    """That somebody watches a task; made and deleted, never changed. Watching it again is another subject."""

    subject_type = "watcher"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="watched", db_index=False, editable=False)

    class Meta(OfTask.Meta):
        constraints = [models.UniqueConstraint(fields=["task", "user"], name="watcher_once")]
        # Whatever a person watches, in the order of the task list.
        indexes = [models.Index(fields=["user", "task"], name="watcher_of_user")]

    def __str__(self) -> str:
        return f"{self.user_id} watches {self.task_id}"

    @classmethod
    def documents(cls, rows) -> list[dict]:
        names = people.names(rows, "user")
        return [row.document(names) for row in rows]

    def document(self, names: dict) -> dict:
        """The watcher as events, API and log show it."""
        return {
            "created_at": rfc3339(self.created_at),
            "id": str(self.pk),
            "task": str(self.task_id),
            "updated_at": rfc3339(self.updated_at),
            "user": people.person(self.user_id, names),
            "version": self.version,
        }
