from django.db import migrations, models

# The index of the table that is partitioned, what it is on, and which entries it holds.
INDEXES = {
    "task_audit_log_actor": "(actor_id, seq)",
    # What stands in the log long after it occurred. It is empty in ordinary operation, and so costs nothing.
    "task_audit_log_late": "(occurred_at) WHERE processed_at - occurred_at >= interval '1 minute'",
}
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'task_audit_log'::regclass ORDER BY inhrelid"
ATTACHED = """
SELECT 1 FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid
WHERE h.inhparent = %s::text::regclass AND i.indrelid = %s::text::regclass
"""
UNFINISHED = """
SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s AND NOT i.indisvalid
"""


def build(apps, schema_editor):
    build_each(schema_editor, INDEXES)


def build_each(schema_editor, indexes: dict[str, str]) -> None:
    """Of each partition without stopping its writers, then attached; when the last one is, the table's own becomes valid
    (PostgreSQL documentation 5.12.2). May be repeated after it was interrupted anywhere; a partition that was made meanwhile
    has its indexes already."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(PARTITIONS)
        for (partition,) in cursor.fetchall():
            for name, definition in indexes.items():
                cursor.execute(ATTACHED, [name, partition])
                if not cursor.fetchone():
                    _build(cursor, partition, name, definition)


def _build(cursor, partition: str, name: str, definition: str) -> None:
    own = name.replace("task_audit_log", partition)
    cursor.execute(UNFINISHED, [own])
    if cursor.fetchone():
        cursor.execute(f"DROP INDEX CONCURRENTLY {own}")
    cursor.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {own} ON {partition} {definition}")
    cursor.execute(f"ALTER INDEX {name} ATTACH PARTITION {own}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("audit", "0005_redaction")]
    reviewed = {
        "require-concurrent-index-creation": "ON ONLY makes no index of any partition: the catalogue is all that changes",
        "opaque": "makes each partition's index CONCURRENTLY, which no statement does for a partitioned table",
    }

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(f"CREATE INDEX IF NOT EXISTS {name} ON ONLY task_audit_log {what}", f"DROP INDEX {name}")
                for name, what in INDEXES.items()
            ],
            state_operations=[
                migrations.AddIndex("entry", models.Index(fields=["actor_id", "seq"], name="task_audit_log_actor")),
            ],
        ),
        migrations.RunPython(build, migrations.RunPython.noop),
    ]
