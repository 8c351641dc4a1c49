from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql" / "0010_opening_stays.sql"


class Migration(migrations.Migration):
    dependencies = [("audit", "0009_archive_events")]

    operations = [migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop)]
