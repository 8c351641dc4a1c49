from django.db import migrations


class Migration(migrations.Migration):
    """`tasks_labelled` serves instead. The version before finds labels all the same, more slowly, until it is gone."""

    atomic = False
    dependencies = [("tasks", "0020_labelled_fill")]
    operations = [
        migrations.SeparateDatabaseAndState(
            [
                migrations.RunSQL(
                    "DROP INDEX CONCURRENTLY IF EXISTS task_labels",
                    "CREATE INDEX CONCURRENTLY task_labels ON tasks_task USING gin (labels)",
                )
            ],
            [migrations.RemoveIndex("task", "task_labels")],
        )
    ]
