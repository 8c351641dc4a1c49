from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0016_subtasks_by_the_database")]
    operations = [migrations.RunSQL((SQL / "0017_search_insert.sql").read_text(), migrations.RunSQL.noop)]
