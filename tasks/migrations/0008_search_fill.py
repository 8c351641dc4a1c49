from uuid import UUID

from django.db import migrations

from tasks.migrations import _batches

# The trigger keeps the words of whatever is written meanwhile: a row that is there is the newer one. The lock is in nobody's
# way but a deletion's, whose row would come back.
BATCH = """
WITH batch AS (
  SELECT id, title, labels, category, summary, description FROM tasks_task WHERE id > %s ORDER BY id LIMIT 2000 FOR KEY SHARE),
filled AS (
  INSERT INTO tasks_search (task_id, words)
  SELECT id, task_words(title, labels, category, summary, description) FROM batch ON CONFLICT DO NOTHING)
SELECT id FROM batch ORDER BY id DESC LIMIT 1
"""


def fill(apps, schema_editor):
    """The words of the tasks that were there before the trigger, in short transactions; may be repeated."""
    _batches.run(schema_editor, BATCH, UUID(int=0))


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("tasks", "0007_search")]
    reviewed = {"opaque": "adds rows to a new table, 2,000 in a transaction, and locks no row against a writer of its columns"}
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
