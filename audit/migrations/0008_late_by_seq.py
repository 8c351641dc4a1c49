from importlib import import_module

from django.db import migrations

# The second index on what stands in the log long after it occurred: in the order of a page of a search.
NAME = "task_audit_log_late_seq"
DEFINITION = "(seq) WHERE processed_at - occurred_at >= interval '1 minute'"


def build(apps, schema_editor):
    """As 0006 builds its own."""
    import_module("audit.migrations.0006_search").build_each(schema_editor, {NAME: DEFINITION})


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("audit", "0007_archive")]
    reviewed = {
        "require-concurrent-index-creation": "ON ONLY makes no index of any partition: the catalogue is all that changes",
        "opaque": "makes each partition's index CONCURRENTLY, which no statement does for a partitioned table",
    }

    operations = [
        migrations.RunSQL(f"CREATE INDEX IF NOT EXISTS {NAME} ON ONLY task_audit_log {DEFINITION}", f"DROP INDEX {NAME}"),
        migrations.RunPython(build, migrations.RunPython.noop),
    ]
