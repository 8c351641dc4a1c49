from django.db import migrations


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("next_version", "0001_colour")]
    operations = [migrations.RunSQL("CREATE INDEX CONCURRENTLY next_title ON tasks_task (title)", "DROP INDEX next_title")]
