from pathlib import Path

from django.db import migrations, models
from django.db.models.functions import Now

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0011_transitions")]
    operations = [
        migrations.CreateModel(
            name="KeptAnswer",
            fields=[
                ("digest", models.BinaryField(primary_key=True, serialize=False)),
                ("user_id", models.IntegerField()),
                ("fingerprint", models.BinaryField()),
                ("status", models.SmallIntegerField()),
                ("headers", models.JSONField()),
                ("body", models.BinaryField()),
                ("created_at", models.DateTimeField(db_default=Now())),
            ],
            options={
                "db_table": "tasks_kept_answer",
                "indexes": [models.Index(fields=["created_at"], name="tasks_kept_answer_created_at")],
            },
        ),
        migrations.RunSQL((SQL / "0012_kept_answers.sql").read_text(), migrations.RunSQL.noop),
    ]
