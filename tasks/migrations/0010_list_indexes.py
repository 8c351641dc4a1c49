from django.db import migrations, models
from django.db.models import Q

TABLE = "tasks_task"
# Each with its columns in SQL.
INDEXES = (
    (models.Index(fields=["created_at", "id"], name="task_created"), "(created_at, id)"),
    (
        models.Index(fields=["status", "priority", "created_at", "id"], name="task_status_priority_created"),
        "(status, priority, created_at, id)",
    ),
    (
        models.Index(fields=["assignee", "status", "created_at", "id"], name="task_assignee_status_created"),
        "(assignee_id, status, created_at, id)",
    ),
    (models.Index(fields=["created_by", "created_at", "id"], name="task_created_by_created"), "(created_by_id, created_at, id)"),
    (
        models.Index(fields=["parent", "created_at", "id"], name="task_parent_created", condition=Q(parent__isnull=False)),
        "(parent_id, created_at, id) WHERE parent_id IS NOT NULL",
    ),
    (
        models.Index(fields=["category", "created_at", "id"], name="task_category_created", condition=Q(category__isnull=False)),
        "(category, created_at, id) WHERE category IS NOT NULL",
    ),
    (models.Index(fields=["status", "due_at", "id"], name="task_status_due"), "(status, due_at, id)"),
    (
        models.Index(fields=["assignee", "status", "due_at", "id"], name="task_assignee_status_due"),
        "(assignee_id, status, due_at, id)",
    ),
    (models.Index(fields=["status", "updated_at", "id"], name="task_status_updated"), "(status, updated_at, id)"),
    (
        models.Index(fields=["assignee", "status", "updated_at", "id"], name="task_assignee_status_updated"),
        "(assignee_id, status, updated_at, id)",
    ),
    (models.Index(fields=["completed_at", "id"], name="task_completed"), "(completed_at, id)"),
    (
        models.Index(
            fields=["assignee", "completed_at", "id"], name="task_assignee_completed", condition=Q(completed_at__isnull=False)
        ),
        "(assignee_id, completed_at, id) WHERE completed_at IS NOT NULL",
    ),
)
# The new ones begin with the same columns.
REPLACED = {
    "task_status_newest": "(status, id DESC)",
    "task_priority_newest": "(priority, id DESC)",
    "task_assignee_newest": "(assignee_id, id DESC)",
    "task_created_by": "(created_by_id)",
    "task_parent": "(parent_id) WHERE parent_id IS NOT NULL",
}


def build(name: str, definition: str) -> list[str]:
    """What an interrupted migration left of it is removed first."""
    return [drop(name), f"CREATE INDEX CONCURRENTLY {name} ON {TABLE} {definition}"]


def drop(name: str) -> str:
    return f"DROP INDEX CONCURRENTLY IF EXISTS {name}"


class Migration(migrations.Migration):
    """Without a lock that stops writers. The version before reads its lists by the indexes that there are, until it is gone."""

    atomic = False
    dependencies = [("tasks", "0009_labels")]
    operations = [
        *(
            migrations.SeparateDatabaseAndState(
                [migrations.RunSQL(build(index.name, columns), drop(index.name))],
                [migrations.AddIndex("task", index)],
            )
            for index, columns in INDEXES
        ),
        *(
            migrations.SeparateDatabaseAndState(
                [migrations.RunSQL(drop(name), build(name, columns))], [migrations.RemoveIndex("task", name)]
            )
            for name, columns in REPLACED.items()
        ),
    ]
