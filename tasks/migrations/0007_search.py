from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0006_comments")]
    operations = [migrations.RunSQL((SQL / "0007_search.sql").read_text(), migrations.RunSQL.noop)]
