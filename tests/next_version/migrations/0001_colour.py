from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("tasks", "0002_capture")]
    operations = [migrations.RunSQL("ALTER TABLE tasks_task ADD COLUMN colour text", "ALTER TABLE tasks_task DROP COLUMN colour")]
