from django.db import migrations

# VACUUM by the number of dead rows and not by their share of a table that is now empty, now full; each change leaves two. At
# full speed, since a pass is short then. Its lock (SHARE UPDATE EXCLUSIVE) is in no reader's and no writer's way.
_SETTINGS = (
    "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_threshold", "autovacuum_vacuum_cost_delay",
    "toast.autovacuum_vacuum_scale_factor", "toast.autovacuum_vacuum_threshold", "toast.autovacuum_vacuum_cost_delay",
)  # fmt: skip
_VALUES = ("0", "2000", "0") * 2
_SET = ", ".join(f"{name} = {value}" for name, value in zip(_SETTINGS, _VALUES, strict=True))


class Migration(migrations.Migration):
    dependencies = [("tasks", "0004_held_release")]
    operations = [
        migrations.RunSQL(f"ALTER TABLE tasks_outbox SET ({_SET})", f"ALTER TABLE tasks_outbox RESET ({', '.join(_SETTINGS)})")
    ]
