from uuid import UUID

from django.db import migrations

from tasks.migrations import _batches

# The triggers keep what is written meanwhile. The locks are in the way of a deletion, whose row would come back, and of a change
# of a task, whose time could be another one.
BATCH = """
WITH batch AS (
  SELECT id, task_id, user_id FROM tasks_watcher WHERE id > %s ORDER BY id LIMIT 1000 FOR KEY SHARE),
filled AS (
  INSERT INTO tasks_watched (task_id, user_id, task_created_at)
  SELECT t.id, b.user_id, t.created_at FROM batch b JOIN tasks_task t ON t.id = b.task_id FOR SHARE OF t ON CONFLICT DO NOTHING)
SELECT id FROM batch ORDER BY id DESC LIMIT 1
"""


def fill(apps, schema_editor):
    """What was watched before there were the triggers, in short transactions; may be repeated."""
    _batches.run(schema_editor, BATCH, UUID(int=0))


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("tasks", "0014_watched")]
    reviewed = {"opaque": "adds rows to a new table, 1,000 in a transaction, and locks tasks for no longer than that takes"}
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
