from uuid import UUID

from django.db import migrations

from tasks.migrations import _batches

# The triggers keep what is written meanwhile. The lock is in the way of a change of the labels, which would not see the new rows.
BATCH = """
WITH batch AS (
  SELECT id, labels, created_at FROM tasks_task WHERE id > %s ORDER BY id LIMIT 1000 FOR SHARE),
filled AS (
  INSERT INTO tasks_labelled (task_id, label, task_created_at)
  SELECT id, label, created_at FROM batch, unnest(labels) label ON CONFLICT DO NOTHING)
SELECT id FROM batch ORDER BY id DESC LIMIT 1
"""


def fill(apps, schema_editor):
    """The labels that tasks bore before there were the triggers, in short transactions; may be repeated."""
    _batches.run(schema_editor, BATCH, UUID(int=0))


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("tasks", "0019_labelled")]
    reviewed = {"opaque": "adds rows to a new table, 1,000 tasks in a transaction, and locks them for no longer than that takes"}
    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop),
        # What shares of the tasks the labels and the watchers have, before a list is planned.
        migrations.RunSQL("ANALYZE tasks_labelled, tasks_watched", migrations.RunSQL.noop),
    ]
