"""The roles of the database: which process may do what to which table, and nothing else.

`TABLES` and `ROUTINES` are the only table of privileges: `manage.py database_roles` makes the GRANTs of it and the tests
walk it. What it does not name is closed to everybody but the owner, who runs the migrations; sequences are too, since an
identity column needs no right on its own. Names of roles are settings: roles belong to the cluster, not to the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings
from django.db import connection, transaction
from psycopg import sql
from psycopg.errors import DuplicateObject, InsufficientPrivilege, UniqueViolation

WEB, WORKER, AUDITOR = "web", "worker", "auditor"
ROLES = (WEB, WORKER, AUDITOR)

_NEW_EVENT = "INSERT (event_id, subject_type, subject_id, version, task_id, payload)"
_ENTRIES = {AUDITOR: "SELECT", WEB: "SELECT"}

# Table: role: privileges. What is empty is for the owner alone.
TABLES: Mapping[str, Mapping[str, str]] = {
    "tasks_task": {WEB: "SELECT, INSERT, UPDATE, DELETE", AUDITOR: "SELECT"},
    # A comment's body alone is changed; somebody watches or does not.
    "tasks_comment": {WEB: "SELECT, INSERT, UPDATE (body), DELETE", AUDITOR: "SELECT"},
    "tasks_watcher": {WEB: "SELECT, INSERT, DELETE", AUDITOR: "SELECT"},
    "tasks_label": {WEB: "SELECT, INSERT, UPDATE (name, colour, description), DELETE", AUDITOR: "SELECT"},
    # Written by the triggers alone.
    "tasks_tombstone": {WEB: "SELECT"},
    "tasks_search": {WEB: "SELECT"},
    "tasks_watched": {WEB: "SELECT"},
    "tasks_labelled": {WEB: "SELECT"},
    # The web role adds events, and neither changes nor removes any; held rows it releases by a procedure.
    "tasks_outbox": {
        WEB: f"SELECT, {_NEW_EVENT}",
        WORKER: "SELECT, UPDATE (published_at, attempts, held_at, held_reason), DELETE",
        # What the log is held against: live rows, and events that are still on their way.
        AUDITOR: "SELECT",
    },
    # Written with the change that an answer tells of, swept beside the relay, which sees no answer.
    "tasks_kept_answer": {WEB: "SELECT, INSERT", WORKER: "SELECT (digest, created_at), DELETE"},
    "tasks_apitoken": {WEB: "SELECT, INSERT, DELETE"},
    # Append-only for everybody: the triggers refuse even the owner.
    "task_audit_log": {**_ENTRIES, WORKER: "SELECT, INSERT"},
    "audit_log": {**_ENTRIES, WORKER: "SELECT, UPDATE (size, edge)"},
    # Append-only as the log.
    "audit_tile": {**_ENTRIES, WORKER: "SELECT, INSERT"},
    "audit_bundle": {**_ENTRIES, WORKER: "SELECT, INSERT"},
    "audit_checkpoint": {**_ENTRIES, WORKER: "SELECT, INSERT"},
    "audit_cosignature": {**_ENTRIES, WORKER: "SELECT, INSERT"},
    # Written by `archive_audit`, as the owner. The web role says where archived entries are.
    "audit_archive": {WEB: "SELECT (first_seq, last_seq, file)", WORKER: "SELECT", AUDITOR: "SELECT"},
    "audit_archived_subject": {WEB: "SELECT (subject_type, subject_id, version, seq)", AUDITOR: "SELECT"},
    "audit_dead_letter": {WEB: "SELECT", WORKER: "SELECT, INSERT"},
    "auth_user": {WEB: "SELECT, INSERT, UPDATE", AUDITOR: "SELECT (id, username)"},
    "auth_user_groups": {WEB: "SELECT, INSERT, DELETE"},
    "auth_user_user_permissions": {WEB: "SELECT, INSERT, DELETE"},
    "auth_group": {WEB: "SELECT, INSERT, UPDATE, DELETE"},
    "auth_group_permissions": {WEB: "SELECT, INSERT, DELETE"},
    "auth_permission": {WEB: "SELECT"},
    "django_content_type": {WEB: "SELECT"},
    "django_session": {WEB: "SELECT, INSERT, UPDATE, DELETE"},
    "django_admin_log": {WEB: "SELECT, INSERT"},
    "django_migrations": {WEB: "SELECT", WORKER: "SELECT"},
}
# No role of ours may erase (audit_redact): the owner does, or a role of his own that he grants it.
# The trigger functions need no grant: who changes a row need not be allowed to call them, nor to make a trigger of them.
ROUTINES: Mapping[str, frozenset[str]] = {
    # What checks an event runs with the rights of who writes it.
    "comment_agrees": frozenset({WEB}),
    "label_agrees": frozenset({WEB}),
    "task_agrees": frozenset({WEB}),
    "watcher_agrees": frozenset({WEB}),
    "taskpulse_may_say": frozenset({WEB}),
    "taskpulse_untrue": frozenset({WEB}),
    # What makes a query of what was typed.
    "task_fold": frozenset({WEB}),
    "task_phrase": frozenset({WEB}),
    "task_query": frozenset({WEB}),
    # SECURITY DEFINER.
    "audit_discard_dead_letters": frozenset({WEB}),
    "audit_ensure_partition": frozenset({WORKER}),
    "audit_look_at_dead_letter": frozenset({WEB}),
    "tasks_outbox_look": frozenset({WEB}),
    "tasks_outbox_release": frozenset({WEB}),
}


class CannotGrant(Exception):
    """The roles or their privileges cannot be made; the message says what is in the way and what to run."""


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    kind: str
    name: str
    # None: none is set, and what the role has stays (a certificate, peer authentication, one that an administrator set).
    password: str | None = None

    @classmethod
    def configured(cls) -> list["DatabaseRole"]:
        """As TASKPULSE_WEB_ROLE, TASKPULSE_WEB_ROLE_PASSWORD and the like name them."""
        names = [(kind, f"{kind.upper()}_ROLE") for kind in ROLES]
        return [cls(kind, getattr(settings, name), getattr(settings, f"{name}_PASSWORD") or None) for kind, name in names]


def is_partition(table: str) -> bool:
    """Partitions of the log are reached through it alone."""
    return table.startswith("task_audit_log_")


def apply(roles: list[DatabaseRole]) -> list[str]:
    """Makes the roles and grants them what the table says, in one transaction; may be repeated at any time.

    Whoever is connected keeps working: what a role may do does not change in between. Returns the tables and views that
    nothing here names, which are closed. Raises CannotGrant.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        # Two that GRANT in one database at once would fail on each other ("tuple concurrently updated").
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('taskpulse database roles')), current_user, current_database()")
        _, owner, database = cursor.fetchone()
        for role in roles:
            if role.name == owner:
                raise CannotGrant(f"the {role.kind} role is to be {owner}, who owns the database: name another")
            _ensure_role(cursor, role)
        try:
            _close(cursor, roles, owner, sql.Identifier(database))
            _open(cursor, {role.kind: role.name for role in roles}, sql.Identifier(database))
        except Exception as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                reason = error.__cause__.diag.message_primary
                raise CannotGrant(f"{owner} must own the database, its schema public and all that is in it: {reason}") from error
            raise
        return _unnamed(cursor)


def _ensure_role(cursor, role: DatabaseRole) -> None:
    cursor.execute(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, "
        "EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) FROM pg_roles r WHERE rolname = %s",
        [role.name],
    )
    found = cursor.fetchone()
    name = sql.Identifier(role.name)
    if found is None:
        _make_role(cursor, role)
    elif found[0] or found[1]:
        what = "has rights over the whole cluster" if found[0] else "is a member of another role"
        raise CannotGrant(f"the role {role.name} is there and {what}: name another for the {role.kind} role, or take that away")
    if role.password is not None:
        # Hashed here, as psql's \password does: the statement, which a server may log, holds no password (RFC 5803).
        verifier = connection.connection.pgconn.encrypt_password(role.password.encode(), role.name.encode(), b"scram-sha-256")
        _run(cursor, sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(verifier.decode())), role)


def _make_role(cursor, role: DatabaseRole) -> None:
    statement = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
    try:
        with transaction.atomic():
            _run(cursor, statement.format(sql.Identifier(role.name)), role)
    except Exception as error:
        # Another database of the cluster made it at this moment.
        if not isinstance(error.__cause__, DuplicateObject | UniqueViolation):
            raise


def _run(cursor, statement: sql.Composable, role: DatabaseRole) -> None:
    try:
        cursor.execute(statement)
    except Exception as error:
        if isinstance(error.__cause__, InsufficientPrivilege):
            raise CannotGrant(
                f"this user may not make the {role.kind} role or set its password: let an administrator run "
                f'CREATE ROLE "{role.name}" LOGIN (and set its password there), and run this again'
            ) from error
        raise


def _close(cursor, roles: list[DatabaseRole], owner: str, database: sql.Identifier) -> None:
    """Nothing is left of what PUBLIC or the roles may do, and what later migrations make is closed until it is granted."""
    everybody = sql.SQL(", ").join([sql.SQL("PUBLIC"), *(sql.Identifier(role.name) for role in roles)])
    for statement in (
        "REVOKE ALL ON DATABASE {database} FROM {everybody}",
        "REVOKE ALL ON SCHEMA public FROM {everybody}",
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {everybody}",
        "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {everybody}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE ALL ON TABLES FROM {everybody}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE ALL ON SEQUENCES FROM {everybody}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE ALL ON ROUTINES FROM {everybody}",
    ):
        cursor.execute(sql.SQL(statement).format(database=database, everybody=everybody, owner=sql.Identifier(owner)))
    for routine in _routines(cursor).values():
        cursor.execute(sql.SQL("REVOKE ALL ON ROUTINE {} FROM {}").format(sql.SQL(routine), everybody))


def _open(cursor, names: Mapping[str, str], database: sql.Identifier) -> None:
    for name in names.values():
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(name)))
        cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(name)))
    for table, privileges in TABLES.items():
        for kind, granted in privileges.items():
            statement = sql.SQL("GRANT {} ON TABLE {} TO {}")
            cursor.execute(statement.format(sql.SQL(granted), sql.Identifier("public", table), sql.Identifier(names[kind])))
    routines = _routines(cursor)
    for routine, kinds in ROUTINES.items():
        for kind in kinds:
            statement = sql.SQL("GRANT EXECUTE ON ROUTINE {} TO {}")
            cursor.execute(statement.format(sql.SQL(routines[routine]), sql.Identifier(names[kind])))


def _routines(cursor) -> dict[str, str]:
    """Name to signature of what is in the schema and no extension's; our names are unique."""
    cursor.execute(
        "SELECT p.proname, p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')"
    )
    return dict(cursor.fetchall())


def _unnamed(cursor) -> list[str]:
    cursor.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
    )
    return sorted(name for (name,) in cursor.fetchall() if name not in TABLES and not is_partition(name))
