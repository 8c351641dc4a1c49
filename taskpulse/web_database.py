"""The web role's patience with PostgreSQL: no request waits longer for it than the settings say.

PostgreSQL ends a statement, or the wait for a lock, that takes too long. A server that answers nothing at all (stopped,
or its host lost) ends nothing: the driver's own wait has an end too, after which the connection is closed.
"""

import functools

import psycopg
from django.conf import settings
from django.core.cache import close_caches
from django.core.handlers.base import reset_urlconf
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, reset_queries
from django.db.backends.signals import connection_created

from taskpulse import turns

# Seconds that a connection may take (the least that libpq knows), and that PostgreSQL's own limit gets to arrive here.
CONNECT_SECONDS, _GRACE = 2, 2.0
# A process that hangs in a transaction holds its locks for at most so many milliseconds.
_IDLE_IN_TRANSACTION = 10_000


def limit() -> None:
    """For the web role's process, before its first connection. 0 leaves a limit to PostgreSQL's role or database, and so does
    a pooler: its sessions are nobody's, and it refuses the start-up parameter `options`."""
    limits = {"statement_timeout": settings.WEB_STATEMENT_TIMEOUT_MS, "lock_timeout": settings.WEB_LOCK_TIMEOUT_MS}
    if settings.POOLER != "none":
        limits.clear()
    if any(limits.values()):
        limits["idle_in_transaction_session_timeout"] = _IDLE_IN_TRANSACTION
    options = connections.settings["default"]["OPTIONS"]
    ours = [f"-c {name}={value}" for name, value in limits.items() if value]
    # What DATABASE_URL says comes last, so that it counts.
    if given := " ".join(filter(None, [*ours, options.get("options")])):
        options["options"] = given
    options["connect_timeout"] = min(int(options["connect_timeout"]), CONNECT_SECONDS)
    connection_created.connect(_limit_waits, dispatch_uid="taskpulse.web_database")


def ask_once() -> None:
    """For the web role's process. Django asks of each connection, when a request begins, whether it is still good, and when it
    ends again: once is enough for connections that are kept (a twentieth of a read). No cache is used, and the statements
    of a request are kept by TASKPULSE_DEBUG alone."""
    request_finished.disconnect(close_old_connections)
    request_finished.disconnect(close_caches)
    request_finished.disconnect(reset_urlconf)
    if not settings.DEBUG:
        request_started.disconnect(reset_queries)


def _limit_waits(connection, **_) -> None:
    seconds = settings.WEB_STATEMENT_TIMEOUT_MS / 1000 or settings.WEB_REQUEST_SECONDS
    wait_at_most(connection.connection, seconds + _GRACE)


def wait_at_most(driver: psycopg.Connection, seconds: float) -> None:
    """Where no answer comes in time, the connection is closed and an OperationalError says so."""
    driver.wait = functools.partial(_wait, driver, driver.wait, seconds)


def _wait(driver, wait, seconds: float, generator, **options):
    try:
        if (turn := turns.current()) is not None:
            return turn.wait(driver.pgconn.socket, generator, options.get("timeout", seconds))
        return wait(generator, **{"timeout": seconds, **options})
    except (psycopg.errors._WaitTimeout, TimeoutError):
        driver.pgconn.finish()  # in the middle of an answer: of no use any more
        raise psycopg.OperationalError(f"PostgreSQL answered nothing for {seconds:.0f} s") from None
