from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).parent / "sql" / "0009_archive_events.sql"


class Migration(migrations.Migration):
    dependencies = [("audit", "0008_late_by_seq")]

    operations = [
        migrations.AddField("archive", "event_id", models.UUIDField(null=True)),
        migrations.AddField("archivedsubject", "task_id", models.UUIDField(null=True)),
        migrations.AddField("archivedsubject", "deleted", models.BooleanField(null=True)),
        migrations.AddField("archivedsubject", "document", models.BinaryField(null=True)),
        migrations.AddField("archivedsubject", "fields", models.TextField(null=True)),
        migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop),
    ]
