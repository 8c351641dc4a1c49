from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("audit", "0002_proofs"), ("tasks", "0003_database_roles")]
    operations = [migrations.RunSQL((SQL / "0003_database_roles.sql").read_text(), migrations.RunSQL.noop)]
