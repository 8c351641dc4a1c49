from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0003_database_roles")]
    operations = [migrations.RunSQL((SQL / "0004_held_release.sql").read_text(), migrations.RunSQL.noop)]
