from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0010_list_indexes")]
    operations = [migrations.RunSQL((SQL / "0011_transitions.sql").read_text(), migrations.RunSQL.noop)]
