"""No migration locks a large table for long or takes away what the version before still uses."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader

from tests.migration_safety import findings, statements

OURS = ("tasks", "audit")
LOADER = MigrationLoader(None)
EACH = sorted(key for key in LOADER.disk_migrations if key[0] in OURS)


@pytest.mark.django_db
@pytest.mark.parametrize("key", EACH, ids="-".join)
def test_each_of_ours_is_safe_or_reviewed(key):
    migration = LOADER.disk_migrations[key]
    assert findings(migration, statements(migration, LOADER.project_state(key, at_end=False))) == []


@pytest.mark.parametrize("key", EACH, ids="-".join)
def test_a_review_says_why(key):
    for rule, why in getattr(LOADER.disk_migrations[key], "reviewed", {}).items():
        assert len(why.split()) >= 5, rule


def rules(*operations, atomic: bool = True, **attributes) -> set[str]:
    """What is found in a migration of these operations after all that there are."""
    migration = migrations.Migration("next", "tasks")
    migration.operations, migration.atomic = operations, atomic
    for name, value in attributes.items():
        setattr(migration, name, value)
    # Outside the test's transaction: where there is one already, a migration cannot say that it wants none.
    sql = statements(migration, LOADER.project_state())
    return {finding.rule for finding in findings(migration, sql)}


TEXT = models.TextField(null=True)
REFUSED = {
    "a column dropped": (migrations.RemoveField("task", "summary"), "ban-drop-column"),
    "a table dropped": (migrations.DeleteModel("apitoken"), "ban-drop-table"),
    "a column renamed": (migrations.RenameField("task", "summary", "abstract"), "renaming-column"),
    "a table renamed": (migrations.AlterModelTable("tombstone", "tasks_stone"), "renaming-table"),
    "a type changed": (migrations.AlterField("task", "category", models.BinaryField(null=True)), "changing-column-type"),
    "a column that became required": (migrations.AlterField("task", "category", models.TextField()), "adding-not-nullable-field"),
    "a required column": (migrations.AddField("task", "colour", models.TextField(default="red")), "default-dropped"),
    "a column filled row by row": (
        migrations.AddField("task", "key", models.UUIDField(db_default=models.Func(function="gen_random_uuid"))),
        "adding-field-with-default",
    ),
    "an index that blocks writes": (
        migrations.AddIndex("task", models.Index(fields=["title"], name="task_title")),
        "require-concurrent-index-creation",
    ),
    "a rule that scans the table": (
        migrations.AddConstraint("task", models.CheckConstraint(condition=models.Q(title__length__lte=99), name="task_short")),
        "constraint-missing-not-valid",
    ),
    "a unique rule": (
        migrations.AddConstraint("task", models.UniqueConstraint(fields=["title"], name="task_unique")),
        "disallowed-unique-constraint",
    ),
    "a key to another table": (
        migrations.RunSQL("ALTER TABLE tasks_task ADD CONSTRAINT k FOREIGN KEY (parent_id) REFERENCES tasks_task (id)"),
        "adding-foreign-key-constraint",
    ),
    "rows changed by SQL": (migrations.RunSQL("UPDATE tasks_task SET category = 'none' WHERE category IS NULL"), "rows-changed"),
    "rows changed by Python": (migrations.RunPython(migrations.RunPython.noop), "opaque"),
    "a block": (migrations.RunSQL("DO $$ BEGIN ALTER TABLE tasks_task DROP COLUMN title; END $$"), "opaque"),
    "a function called": (migrations.RunSQL("-- harmless\nSELECT taskpulse_audit('tasks_task', 'a', 'b', 'c')"), "opaque"),
}  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize(("operation", "rule"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_stop_or_break_the_older_version_is_refused(operation, rule):
    assert rule in rules(operation)


ACCEPTED = {
    "a column that may be empty": migrations.AddField("task", "colour", TEXT),
    "a required column that the database fills": migrations.AddField("task", "colour", models.TextField(db_default="red")),
    "a new table": migrations.CreateModel("Colour", [("id", models.BigAutoField(primary_key=True)), ("name", TEXT)]),
    "a rule for what comes": migrations.RunSQL("ALTER TABLE tasks_task ADD CONSTRAINT s CHECK (title <> 'x') NOT VALID"),
    "a function": migrations.RunSQL("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET a = 1; END $$"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("operation", ACCEPTED.values(), ids=list(ACCEPTED))
def test_what_the_older_version_does_not_notice_is_accepted(operation):
    assert rules(operation) == set()


def test_an_index_that_is_made_concurrently_is_accepted(committed_db):
    index = AddIndexConcurrently("task", models.Index(fields=["title"], name="task_title"))
    assert rules(index, atomic=False) == set()


@pytest.mark.django_db
def test_a_review_lets_one_rule_pass_and_goes_with_it():
    drop = migrations.RemoveField("task", "summary")
    assert rules(drop, reviewed={"ban-drop-column": "no version since 1.3 reads or writes it"}) == set()
    assert rules(drop, reviewed={"ban-drop-table": "a rule that it does not break"}) == {
        "ban-drop-column",
        "unneeded-review",
    }


def test_the_indexes_of_the_log_are_finished_after_an_interruption(committed_db):
    """The migration was stopped while it built the one, and the log went on into a new partition."""
    migration = import_module("audit.migrations.0006_search")
    with connection.cursor() as cursor:
        for name, definition in migration.INDEXES.items():
            cursor.execute(f"DROP INDEX {name}")
            cursor.execute(f"CREATE INDEX {name} ON ONLY task_audit_log {definition}")
        cursor.execute("CREATE INDEX task_audit_log_00000_actor ON task_audit_log_00000 (version)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'task_audit_log_00000_actor'::regclass")
        cursor.execute("SELECT audit_ensure_partition(10000001)")
    for _ in range(2):
        migration.build(None, SimpleNamespace(connection=connection))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, i.indisvalid, (SELECT count(*) FROM pg_inherits h WHERE h.inhparent = c.oid) FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = ANY (%s) ORDER BY 1",
            [list(migration.INDEXES)],
        )
        assert cursor.fetchall() == [(name, True, 2) for name in sorted(migration.INDEXES)]
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'task_audit_log_00000_actor'")
        assert cursor.fetchone()[0].endswith("(actor_id, seq)")
