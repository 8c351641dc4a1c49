"""A dump restored beside everything else: into a database of its own on the configured server, dropped afterwards."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from audit.verification.report import CannotCheck
from taskpulse.embedded import postgres

PREFIX = "taskpulse_drill_"


class CannotRestore(CannotCheck):
    """The dump cannot be made a database that this version works with; the message says why."""


@contextmanager
def restored(dump: Path, keep: bool = False, program: str | None = None) -> Iterator[str]:
    """Restores what `pg_dump` wrote (-Fc, -Fd or -Ft) and brings it up to date. Within the block Django's default
    connection leads there and nowhere else; the name is the value. `program` is pg_restore. Raises CannotRestore, and the
    database's faults."""
    name, before = f"{PREFIX}{secrets.token_hex(4)}", connection.settings_dict["NAME"]
    program = program or _program()
    _on_server("CREATE DATABASE {} TEMPLATE template0", name)
    try:
        connection.close()
        connection.settings_dict["NAME"] = name
        _restore(program, dump)
        _bring_up_to_date()
        yield name
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before
        if not keep:
            _on_server("DROP DATABASE {} WITH (FORCE)", name)
            connection.close()


def _on_server(statement: str, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _program() -> str:
    """The one of the embedded PostgreSQL where that is installed, which is of the right version; else the one on the PATH."""
    try:
        return str(postgres.binaries() / "pg_restore")
    except postgres.PostgresError:
        found = shutil.which("pg_restore")
    if found is None:
        raise CannotRestore(
            "pg_restore is not on the PATH: install the client programs of PostgreSQL 18, or name it by --pg-restore"
        )
    return found


def _restore(program: str, dump: Path) -> None:
    """Without owners and rights: the roles that they name may not be here, and nobody but us reads it."""
    address, password = _address()
    command = [program, "--exit-on-error", "--no-owner", "--no-privileges", "--dbname", address, str(dump)]
    environment = os.environ | ({"PGPASSWORD": password} if password else {})
    result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if result.returncode:
        # The other lines quote rows.
        said = [line for line in result.stderr.splitlines() if line.startswith("pg_restore: ")]
        raise CannotRestore("\n".join(said) or f"pg_restore ended with status {result.returncode}")


def _address() -> tuple[str, str | None]:
    """The present connection's for libpq; the password apart, since everybody sees a command line."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    parameters = {name: value for name, value in connection.get_connection_params().items() if name in known}
    password = parameters.pop("password", None)
    return make_conninfo(**parameters), password


def _bring_up_to_date() -> None:
    """As after a restore in earnest, where the dump is of the version before."""
    executor = MigrationExecutor(connection)
    unknown = sorted(set(executor.loader.applied_migrations) - set(executor.loader.disk_migrations))
    if not executor.loader.applied_migrations:
        raise CannotRestore("the dump holds no database of TaskPulse: no migration is applied in it")
    if unknown:
        raise CannotRestore(f"the dump is of a newer version: this one does not know the migration {'.'.join(unknown[0])}")
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0)
