"""The server and the database of the benchmark: embedded unless DATABASE_URL names one, its own, dropped at the end."""

import os
import secrets
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

NAME = f"taskpulse_bench_{os.getpid()}"


@contextmanager
def server(options: dict[str, str] | None = None):
    """The URL of a PostgreSQL and what it is. An embedded one runs as `manage.py up` runs it, fsync and all, but for `options`."""
    named = os.environ.get("DATABASE_URL")
    if named:
        yield named, "named by DATABASE_URL"
        return
    from taskpulse.embedded.postgres import EmbeddedPostgres, stop

    with tempfile.TemporaryDirectory(prefix="taskpulse-bench-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)
        postgres = EmbeddedPostgres(Path(home), options=options)
        postgres.prepare()
        # In a session of its own: Ctrl-C is for us, and we end it.
        process = postgres.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            postgres.wait_until_ready(process)
            yield postgres.url("postgres"), "embedded"
        finally:
            stop(process)


@contextmanager
def fresh_database(server_url: str):
    """Makes a database beside the one that the URL names, settles Django on it, migrated, and drops it at the end."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
    try:
        with tempfile.TemporaryDirectory(prefix="taskpulse-bench-", ignore_cleanup_errors=True) as home:
            os.environ |= {
                "DATABASE_URL": urlunsplit(urlsplit(server_url)._replace(path=f"/{NAME}")),
                "SECRET_KEY": secrets.token_hex(32),
                "TASKPULSE_HOME": home,
                "TASKPULSE_MODE": "local",
                "DJANGO_SETTINGS_MODULE": "taskpulse.settings",
                "TASKPULSE_LOG_LEVEL": "WARNING",
            }
            import django
            from django.core.management import call_command
            from django.db import connections

            (Path(home) / "static").mkdir()
            django.setup()
            call_command("migrate", verbosity=0)
            yield os.environ["DATABASE_URL"]
            connections.close_all()
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def empty(server_url: str) -> None:
    """The fresh database once more: what a part left there would weigh on the next. Even dead entries do, since each unique
    index looks at the heap for a `seq` that comes again."""
    from django.core.management import call_command
    from django.db import connections

    connections.close_all()
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {NAME}")
    call_command("migrate", verbosity=0)
