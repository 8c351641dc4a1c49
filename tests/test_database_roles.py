"""Least privilege in the database: every kind of statement as every role against every table, with the roles connected."""

import re
from types import SimpleNamespace

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from psycopg import errors, sql

from taskpulse import database_roles
from taskpulse.database_roles import AUDITOR, ROLES, TABLES, WEB, WORKER, is_partition
from tests.database_role import OWNER

LOG_TABLES = (
    "task_audit_log", "audit_log", "audit_tile", "audit_bundle", "audit_checkpoint", "audit_cosignature", "audit_archive",
    "audit_archived_subject",
)  # fmt: skip


@pytest.fixture(scope="module")
def columns(owned) -> dict[str, list[str]]:
    """Of every table and view that is in the database, whether anything names it or not."""
    with owned.connect(None) as session:
        rows = session.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
            "AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY 1, a.attnum"
        )
        found: dict[str, list[str]] = {}
        for table, column in rows:
            found.setdefault(table, []).append(column)
    return found


def is_denied(session: psycopg.Connection, statement: str, *names: str) -> bool:
    """Whether PostgreSQL itself denies it. What a trigger or a constraint says afterwards is not a denial."""
    try:
        with session.transaction(force_rollback=True):
            session.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
    except errors.InsufficientPrivilege as error:
        return bool(re.match(r"permission denied|must be owner", error.diag.message_primary))
    except psycopg.Error:
        return False
    return False


def granted(kind: str, table: str) -> dict[str, frozenset[str] | None]:
    """Privilege: the columns that it is for, None for all."""
    found = re.finditer(r"(\w+)(?: \(([^)]*)\))?(?:, |$)", TABLES.get(table, {}).get(kind, ""))
    return {match[1]: frozenset(match[2].split(", ")) if match[2] else None for match in found}


def test_every_table_is_named(columns):
    """A new table is closed to all roles; this says so until taskpulse/database_roles.py decides who may use it."""
    assert {table for table in columns if not is_partition(table)} == set(TABLES)


@pytest.mark.parametrize("kind", ROLES)
def test_every_statement_against_every_table(owned, columns, kind):
    wrong = []
    with owned.connect(kind, autocommit=True) as session:
        for table, names in columns.items():
            may = granted(kind, table)
            statements = [
                ("DELETE", None, "DELETE FROM {} WHERE false"),
                ("TRUNCATE", None, "TRUNCATE {}"),
                ("owner", None, "CREATE TABLE public.x (LIKE {})"),
                ("TRIGGER", None, "CREATE TRIGGER x BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION taskpulse_refuse('')"),
                ("MAINTAIN", None, "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE"),
                ("owner", None, "ALTER TABLE {} DISABLE TRIGGER ALL"),
                ("owner", None, "ALTER TABLE {} ADD COLUMN x int"),
                ("owner", None, "DROP TABLE {}"),
                ("owner", None, "ALTER TABLE {} OWNER TO CURRENT_USER"),
            ]
            statements += [("SELECT", name, "SELECT {1} FROM {0} WHERE false") for name in names]
            statements += [("INSERT", name, "INSERT INTO {} ({}) SELECT NULL WHERE false") for name in names]
            statements += [("UPDATE", name, "UPDATE {} SET {} = NULL") for name in names]
            for privilege, column, statement in statements:
                allowed = privilege in may and (column is None or may[privilege] is None or column in may[privilege])
                # Who may UPDATE or DELETE may lock: the rows are his to change anyway.
                allowed |= privilege == "MAINTAIN" and any(right in may and may[right] is None for right in ("UPDATE", "DELETE"))
                if allowed == is_denied(session, statement, table, *([column] if column else [])):
                    wrong.append((table, statement, column, "denied" if allowed else "allowed"))
    assert not wrong


def test_the_table_itself_keeps_to_the_rules(columns):
    """What the rules are, apart from how they are written down."""
    writes = {"INSERT", "UPDATE", "DELETE", "TRUNCATE"}
    for kind in ROLES:
        for table in LOG_TABLES:
            assert not granted(kind, table).keys() & {"DELETE", "TRUNCATE"}
            assert "UPDATE" not in granted(kind, table) or (kind, table) == (WORKER, "audit_log")
        assert not granted(kind, "audit_log").keys() & {"INSERT", "DELETE", "TRUNCATE"}
    for table in (*LOG_TABLES, "audit_dead_letter", "tasks_tombstone"):
        assert not granted(WEB, table).keys() & writes
    assert not granted(WEB, "tasks_outbox").keys() & {"UPDATE", "DELETE", "TRUNCATE"}
    assert granted(WORKER, "tasks_outbox")["UPDATE"].isdisjoint({"event_id", "payload", "digest", "version", "subject_id"})
    for table in TABLES:
        if table.startswith(("tasks_task", "tasks_label", "tasks_tombstone", "auth_", "django_session", "tasks_apitoken")):
            assert not granted(WORKER, table).keys() & writes, table
    assert granted(WEB, "tasks_comment")["UPDATE"] == {"body"}
    assert "UPDATE" not in granted(WEB, "tasks_watcher")
    assert granted(WEB, "tasks_label")["UPDATE"] == {"name", "colour", "description"}
    compared = {"tasks_task", "tasks_comment", "tasks_watcher", "tasks_label", "tasks_outbox", "auth_user"}
    assert {table for table in TABLES if granted(AUDITOR, table)} == compared | set(LOG_TABLES)
    assert all(granted(AUDITOR, table).keys() == {"SELECT"} for table in compared | set(LOG_TABLES))
    assert granted(AUDITOR, "auth_user")["SELECT"] == {"id", "username"}


@pytest.mark.parametrize("kind", ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE EXTENSION vector",
        "CREATE ROLE mine",
        "SET session_replication_role = replica",
        "ALTER SYSTEM SET log_statement = 'all'",
        "SET ROLE {owner}",
        "SET SESSION AUTHORIZATION {owner}",
        "ALTER FUNCTION taskpulse_capture() RENAME TO other",
        "CREATE OR REPLACE FUNCTION taskpulse_attributes() RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
        "SELECT setval('tasks_outbox_id_seq', 1)",
        "SELECT nextval('tasks_outbox_id_seq')",
        "SELECT taskpulse_append('task', 'x', 'created', 1, NULL, now(), '{{}}')",
        "SELECT taskpulse_attributes()",
        "SELECT taskpulse_audit('auth_group', 'group', 'taskpulse_jcs', '')",
        "CALL audit_redact('1', NULL, '{{}}', 'case 1', 0, 9)",
        "SELECT tasks_forget_answers('1', NULL)",
        "GRANT EXECUTE ON PROCEDURE audit_redact TO CURRENT_USER",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY task_audit_log TO PROGRAM 'cat'",
        "COPY task_audit_log_00000 TO STDOUT",
    ],
)
def test_nobody_but_the_owner_changes_how_it_works(owned, kind, statement):
    with owned.connect(kind, autocommit=True) as session, pytest.raises(psycopg.Error) as refused:
        session.execute(sql.SQL(statement).format(owner=sql.Identifier(owned.names[OWNER])))
    # 42501 insufficient_privilege; 0A000, of an extension that is not there to be made, would prove nothing.
    assert refused.value.sqlstate == "42501"


@pytest.mark.parametrize("kind", ROLES)
def test_routines_are_for_whom_the_table_says(owned, kind):
    with owned.connect(kind) as session:
        rows = session.execute(
            "SELECT p.proname, p.prorettype::regtype::text, has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p "
            "WHERE p.pronamespace = 'public'::regnamespace"
        )
        found = {name: may for name, _, may in rows}
    assert {name for name, may in found.items() if may} == {
        name for name, kinds in database_roles.ROUTINES.items() if kind in kinds
    }


def test_every_security_definer_function_has_a_fixed_search_path(owned):
    with owned.connect(None) as session:
        rows = session.execute(
            "SELECT p.proname, array_to_string(p.proconfig, ',') FROM pg_proc p "
            "WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert {name for name, _ in rows} >= {"taskpulse_capture", "audit_ensure_partition", "audit_redact", "tasks_outbox_release"}
    for name, settings in rows:
        path = re.search(r"search_path=([^=]*)", settings or "")
        assert path, name
        assert path[1].replace('"', "").split(", ")[-1] == "pg_temp", name


def test_what_a_later_migration_makes_is_closed(owned):
    with owned.connect(OWNER, autocommit=True) as session:
        session.execute("CREATE TABLE later (x int)")
        session.execute("CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    try:
        for kind in ROLES:
            with owned.connect(kind, autocommit=True) as session:
                assert is_denied(session, "SELECT * FROM later")
                assert is_denied(session, "SELECT later()")
    finally:
        with owned.connect(OWNER, autocommit=True) as session:
            session.execute("DROP TABLE later")
            session.execute("DROP FUNCTION later()")


def test_the_command_may_be_repeated_and_takes_away_what_is_too_much(owned, capsys):
    with owned.connect(OWNER, autocommit=True) as session:
        session.execute(f"GRANT ALL ON tasks_outbox, task_audit_log TO PUBLIC, {owned.names[WEB]}")
        session.execute(f"GRANT UPDATE (payload) ON tasks_outbox TO {owned.names[WEB]}")
        session.execute("GRANT EXECUTE ON FUNCTION taskpulse_capture() TO PUBLIC")
        session.execute("CREATE TABLE unnamed (x int)")
    with owned.django_as(OWNER):
        call_command("database_roles")
        call_command("database_roles")
    assert "may use the table unnamed" in capsys.readouterr().err
    with owned.connect(OWNER, autocommit=True) as session:
        session.execute("DROP TABLE unnamed")
    with owned.connect(WEB, autocommit=True) as session:
        assert is_denied(session, "UPDATE tasks_outbox SET payload = ''")
        assert is_denied(session, "DELETE FROM task_audit_log")
        assert not session.execute("SELECT has_function_privilege('taskpulse_capture()', 'EXECUTE')").fetchone()[0]


def test_passwords_reach_the_server_as_verifiers_alone(owned, settings):
    seen = []
    settings.WEB_ROLE_PASSWORD = "hunter2 hunter2"

    def watch(execute, statement, parameters, many, execution):
        seen.append(statement.as_string(connection.connection) if isinstance(statement, sql.Composable) else str(statement))
        return execute(statement, parameters, many, execution)

    with owned.django_as(OWNER), connection.execute_wrapper(watch):
        call_command("database_roles", verbosity=0)
    said = [statement for statement in seen if "ALTER ROLE" in statement and owned.names[WEB] in statement]
    assert len(said) == 1
    assert re.search(r"PASSWORD 'SCRAM-SHA-256\$4096:[\w+/=]+\$[\w+/=]+:[\w+/=]+'$", said[0])
    assert not [statement for statement in seen if "hunter2" in statement]
    with owned.connect(None) as session:
        (kept,) = session.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [owned.names[WEB]]).fetchone()
    assert said[0].endswith(f"'{kept}'")
    settings.WEB_ROLE_PASSWORD = ""
    with owned.django_as(OWNER):
        call_command("database_roles", verbosity=0)
    with owned.connect(None) as session:
        assert session.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [owned.names[WEB]]).fetchone()[0] == kept


def test_a_role_with_more_rights_is_refused(owned, settings):
    owned.run("CREATE ROLE {} LOGIN CREATEDB", f"{owned.names[WEB]}_x")
    settings.WEB_ROLE = f"{owned.names[WEB]}_x"
    with owned.django_as(OWNER):
        with pytest.raises(CommandError, match="has rights over the whole cluster"):
            call_command("database_roles")
        owned.run("ALTER ROLE {} NOCREATEDB", settings.WEB_ROLE)
        owned.run("GRANT {} TO {}", owned.names[OWNER], settings.WEB_ROLE)
        with pytest.raises(CommandError, match="is a member of another role"):
            call_command("database_roles")
        settings.WEB_ROLE = owned.names[OWNER]
        with pytest.raises(CommandError, match="who owns the database: name another"):
            call_command("database_roles")
    owned.run("DROP ROLE {}", f"{owned.names[WEB]}_x")


def test_who_may_not_make_roles_is_told_what_to_run(owned, settings):
    settings.WEB_ROLE, settings.WEB_ROLE_PASSWORD = f"{owned.names[WEB]}_y", "hunter2"
    owned.run("ALTER ROLE {} NOCREATEROLE", owned.names[OWNER])
    try:
        with owned.django_as(OWNER), pytest.raises(CommandError, match=f'CREATE ROLE "{settings.WEB_ROLE}" LOGIN') as refused:
            call_command("database_roles")
        assert "hunter2" not in str(refused.value)
    finally:
        owned.run("ALTER ROLE {} CREATEROLE", owned.names[OWNER])
    with owned.django_as(WEB), pytest.raises(CommandError, match=r"must own the database|may not make"):
        call_command("database_roles")


def test_two_installations_of_a_cluster_make_their_roles_at_once(owned, monkeypatch):
    """The other one's CREATE ROLE comes between our look and ours."""
    make = database_roles._make_role

    def late(cursor, role):
        owned.run("CREATE ROLE {} LOGIN", role.name)
        owned.run("GRANT {} TO {} WITH ADMIN OPTION", role.name, owned.names[OWNER])
        make(cursor, role)

    monkeypatch.setattr(database_roles, "_make_role", late)
    name = f"{owned.names[WEB]}_z"
    with owned.django_as(OWNER), connection.cursor() as cursor:
        database_roles._ensure_role(cursor, SimpleNamespace(kind=WEB, name=name, password=None))
        cursor.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [name])
        assert cursor.fetchone() == (True,)
    owned.run("DROP ROLE {}", name)
