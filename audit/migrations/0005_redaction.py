from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("audit", "0004_dead_letter_look"), ("tasks", "0004_held_release")]
    operations = [migrations.RunSQL((SQL / "0005_redaction.sql").read_text(), migrations.RunSQL.noop)]
