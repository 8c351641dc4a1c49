from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"
CHECKS = (
    "task_title_not_empty", "task_priority", "task_status", "task_completed_at_with_status", "task_not_its_own_parent",
    "task_years", "task_labels",
)  # fmt: skip


class Migration(migrations.Migration):
    """Rows are looked through without a lock that stops writers. What is written between the two steps is checked already."""

    atomic = False
    reviewed = {"ban-drop-constraint": "each comes back in the same statement with the same name and rule"}
    dependencies = [("tasks", "0012_kept_answers")]
    operations = [
        migrations.RunSQL((SQL / "0013_words.sql").read_text(), migrations.RunSQL.noop),
        migrations.RunSQL((SQL / "0013_shorter_checks.sql").read_text(), migrations.RunSQL.noop),
        *(migrations.RunSQL(f"ALTER TABLE tasks_task VALIDATE CONSTRAINT {name}", migrations.RunSQL.noop) for name in CHECKS),
    ]
