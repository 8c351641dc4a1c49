"""A PgBouncer in front of the tests' PostgreSQL, in transaction mode."""

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest

from taskpulse.embedded import unprivileged
from tests.running_up import free_port, wait_until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def in_front_of(database_url: str, directory: Path, *lines: str):
    """Yields the address of the same database through a pool of two connections; `lines` go to its configuration.

    Whoever runs as root has it run as the owner of the server's socket, since PgBouncer does not run as root.
    """
    if PROGRAM is None:
        if os.environ.get("TESTS_REQUIRE_PGBOUNCER"):
            pytest.fail("pgbouncer is not installed: apt-get install pgbouncer")
        pytest.skip("pgbouncer is not installed")
    parts, port = urlsplit(database_url), free_port()
    host = dict(parse_qsl(parts.query)).get("host") or parts.hostname
    role, password = unquote(parts.username or "postgres"), unquote(parts.password or "")
    server = f"host={host} port={parts.port or 5432} user={role}" + (f" password='{password}'" if password else "")
    configuration = directory / "pgbouncer.ini"
    common = f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
    configuration.write_text(
        "\n".join([f"[databases]\n* = {server}\n[pgbouncer]\n{common}default_pool_size = 2\nquery_wait_timeout = 20", *lines, ""])
    )
    user = unprivileged.owner(Path(host if host.startswith("/") else "/nowhere"))
    if user:
        for path in (directory.parent, *directory.glob("*"), directory):
            os.chown(path, user.pw_uid, -1)
        directory.parent.parent.chmod(0o711)
    as_user = ["-u", user.pw_name] if user else []
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, "-q", *as_user, str(configuration)], stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or listens(port), 20, "PgBouncer listens")
        assert process.poll() is None, (directory / "log").read_text()
        yield f"postgresql://{quote(role)}@127.0.0.1:{port}{parts.path}"
    finally:
        process.terminate()
        process.wait(20)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
