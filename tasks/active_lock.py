"""One active relay: a session's advisory lock on a connection of its own."""

import hashlib
import time

import psycopg
from django.db import connection
from psycopg.pq import ConnStatus, TransactionStatus

# Seconds without a sign of who holds the lock and gives signs, after which PostgreSQL ends the session: longer than the relay waits
# for Kafka, shorter than for what hangs. Four signs are given in that time.
LEASE = 30.0
# PostgreSQL ends the session of a host that went away without a word, which frees the lock. These have no effect on a
# Unix socket. (PostgreSQL documentation 19.3.2, TCP settings; tcp_user_timeout in milliseconds.)
_SERVER_SIDE = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=5 "
    "-c tcp_user_timeout=5000 -c idle_session_timeout=0"
)
# Whoever waits for the lock may take any time between two tries. A setting of 0 is no timeout (milliseconds).
_TRY = "SELECT CASE WHEN pg_try_advisory_lock(%s) THEN set_config('idle_session_timeout', %s, false) IS NOT NULL ELSE false END"
_SIGN = b"SELECT"


class ActiveLock:
    """At most one process of a database holds the lock of a given name.

    The lock lives as long as its connection: a process that is killed, or whose host is lost, gives it up. With a `lease`, in
    seconds, so does one that is frozen: it lasts while `held()` or `acquire()` are called more often than that. Raises
    psycopg.OperationalError where the database is away.
    """

    def __init__(self, name: str, lease: float | None = None):
        self._name, self._lease = name, lease
        # When the last sign was given, by the monotonic clock.
        self._signed_at = 0.0
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
            row = self._connection.execute(_TRY, [self._key, str(round((self._lease or 0) * 1000))]).fetchone()
        except psycopg.Error:
            self.release()
            raise
        self._locked, self._signed_at = row[0], time.monotonic()
        return self._locked

    def held(self) -> bool:
        """Whether the lock is held still; asks the socket and never waits for the server, so that it may be called at any time."""
        if not self._locked:
            return False
        try:
            self._connection.pgconn.consume_input()  # never blocks; fails once the server or the network closed
            alive = self._give_sign() and self._connection.pgconn.status == ConnStatus.OK
        except psycopg.OperationalError:
            alive = False
        if not alive:
            self.release()
        return alive

    def _give_sign(self) -> bool:
        """A statement, whose answer is taken when it is there. False if it is too late for one."""
        server, silence = self._connection.pgconn, time.monotonic() - self._signed_at
        if server.transaction_status == TransactionStatus.ACTIVE:
            while not server.is_busy() and server.get_result() is not None:
                pass
        elif self._lease is not None and self._lease / 4 < silence < self._lease:
            server.send_query(_SIGN)
            server.flush()
            self._signed_at = time.monotonic()
        return self._lease is None or silence < self._lease

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
