from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0002_capture")]
    reviewed = {
        "ban-drop-constraint": "the trigger taskpulse_true checks the same of each new row, and more",
    }
    operations = [migrations.RunSQL((SQL / "0003_database_roles.sql").read_text(), migrations.RunSQL.noop)]
