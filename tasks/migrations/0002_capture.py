from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0001_initial")]
    operations = [
        migrations.RunSQL((SQL / "0002_capture.sql").read_text(), migrations.RunSQL.noop),
        migrations.RunSQL((SQL / "0002_task.sql").read_text(), migrations.RunSQL.noop),
    ]
