from django.db import migrations, models

PARENT = models.ForeignKey("tasks.task", models.DO_NOTHING, null=True, blank=True, related_name="subtasks", db_index=False)


class Migration(migrations.Migration):
    """Nothing changes in the database, which deletes subtasks with their parent since 0002."""

    dependencies = [("tasks", "0015_watched_fill")]
    operations = [migrations.AlterField("task", "parent", PARENT)]
