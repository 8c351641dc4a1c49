from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_database_roles")]
    operations = [migrations.RunSQL((SQL / "0004_dead_letter_look.sql").read_text(), migrations.RunSQL.noop)]
