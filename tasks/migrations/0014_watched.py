from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0013_leaner_writes")]
    operations = [migrations.RunSQL((SQL / "0014_watched.sql").read_text(), migrations.RunSQL.noop)]
