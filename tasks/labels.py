"""Labels that are known by more than their name: what colour each has, and what it is for.

A task bears its labels in its own row, any text of 1 to LABEL_LENGTH characters, whether this table knows it or not: the
table decorates. Names are compared as the labels of tasks are, so "Bug" and "bug" are two labels.
"""

import re

from django.db import models
from django.db.models import Q
from django.db.models.expressions import RawSQL

from tasks.audited import AuditedModel
from tasks.events import rfc3339, uuid7

LABEL_LENGTH = 64
LABEL_DESCRIPTION_LENGTH = 200
COLOUR = r"^#[0-9a-f]{6}$"
COLOUR_PATTERN = re.compile(COLOUR)
# A grey that black and white text can both be read on.
DEFAULT_COLOUR = "#808080"


def bearing(tasks: models.QuerySet, name: str) -> models.QuerySet:
    """Those of the tasks that bear the label, by the table that triggers keep (migration 0019)."""
    return tasks.filter(pk__in=RawSQL("SELECT task_id FROM tasks_labelled WHERE label = %s", [name]))


class Label(AuditedModel):
    subject_type = "label"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=LABEL_LENGTH)
    colour = models.CharField(max_length=7, default=DEFAULT_COLOUR)
    description = models.CharField(max_length=LABEL_DESCRIPTION_LENGTH, blank=True, default="")

    class Meta(AuditedModel.Meta):
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["name"], name="label_name"),
            models.CheckConstraint(condition=Q(name__length__gte=1), name="label_name_not_empty"),
            models.CheckConstraint(condition=Q(colour__regex=COLOUR), name="label_colour"),
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def documents(cls, rows) -> list[dict]:
        return [row.document() for row in rows]

    def document(self) -> dict:
        """The label as events, API and log show it."""
        return {
            "colour": self.colour,
            "description": self.description,
            "id": str(self.pk),
            "name": self.name,
            "updated_at": rfc3339(self.updated_at),
            "version": self.version,
        }
