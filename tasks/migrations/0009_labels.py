from pathlib import Path

from django.db import migrations, models

import tasks.audited
import tasks.events

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("tasks", "0008_search_fill")]
    reviewed = {
        "opaque": "makes triggers on the table that it has just made, which is empty",
    }
    operations = [
        migrations.CreateModel(
            name="Label",
            fields=[
                ("version", tasks.audited.VersionField(default=1, editable=False)),
                ("updated_at", tasks.audited.DecidedDateTimeField(editable=False)),
                ("id", models.UUIDField(default=tasks.events.uuid7, editable=False, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=64)),
                ("colour", models.CharField(default="#808080", max_length=7)),
                ("description", models.CharField(blank=True, default="", max_length=200)),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "base_manager_name": "objects",
                "constraints": [
                    models.UniqueConstraint(fields=("name",), name="label_name"),
                    models.CheckConstraint(condition=models.Q(("name__length__gte", 1)), name="label_name_not_empty"),
                    models.CheckConstraint(condition=models.Q(("colour__regex", "^#[0-9a-f]{6}$")), name="label_colour"),
                ],
            },
        ),
        migrations.RunSQL((SQL / "0009_labels.sql").read_text(), migrations.RunSQL.noop),
    ]
