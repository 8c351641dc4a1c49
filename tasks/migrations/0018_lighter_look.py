from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0017_search_insert")]
    operations = [migrations.RunSQL((SQL / "0018_lighter_look.sql").read_text(), migrations.RunSQL.noop)]
