"""One active relay: a session's advisory lock on a connection of its own."""

import hashlib

import psycopg
from django.db import connection
from psycopg.pq import ConnStatus

# PostgreSQL ends the session of a host that went away without a word, which frees the lock. These have no effect on a
# Unix socket. (PostgreSQL documentation 19.3.2, TCP settings; tcp_user_timeout in milliseconds.)
_SERVER_SIDE = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=5 "
    "-c tcp_user_timeout=5000 -c idle_session_timeout=0"
)


class ActiveLock:
    """At most one process of a database holds the lock of a given name.

    The lock lives as long as its connection: a process that is killed, or whose host is lost, gives it up. Raises
    psycopg.OperationalError where the database is away.
    """

    def __init__(self, name: str):
        self._name = name
        self._key = int.from_bytes(hashlib.sha256(f"taskpulse {name}".encode()).digest()[:8], "big", signed=True)
        self._connection: psycopg.Connection | None = None
        self._locked = False

    def acquire(self) -> bool:
        """One try; False while another holds it."""
        if self._locked and self.held():
            return True
        try:
            if self._connection is None or self._connection.closed:
                self._connection = _connect(self._name)
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", [self._key]).fetchone()
        except psycopg.Error:
            self.release()
            raise
        self._locked = row[0]
        return self._locked

    def held(self) -> bool:
        """Whether the lock is held still; asks the socket, not the server, so that it may be called at any time."""
        if not self._locked:
            return False
        try:
            self._connection.pgconn.consume_input()  # never blocks; fails once the server or the network closed
            alive = self._connection.pgconn.status == ConnStatus.OK
        except psycopg.OperationalError:
            alive = False
        if not alive:
            self.release()
        return alive

    def release(self) -> None:
        self._locked = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connect(name: str) -> psycopg.Connection:
    parameters = connection.get_connection_params()
    options = " ".join(filter(None, [parameters.get("options"), _SERVER_SIDE]))
    return psycopg.connect(
        **{name: parameters[name] for name in parameters if name not in ("context", "cursor_factory", "prepare_threshold")}
        | {
            "application_name": f"taskpulse {name.split()[0]} lock",
            "autocommit": True,
            "options": options,
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 1,
            "keepalives_count": 5,
            "tcp_user_timeout": 5000,
            "connect_timeout": 5,
        }
    )
