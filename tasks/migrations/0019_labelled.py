from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0018_lighter_look")]
    operations = [migrations.RunSQL((SQL / "0019_labelled.sql").read_text(), migrations.RunSQL.noop)]
