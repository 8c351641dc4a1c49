"""The patience of relay and consumer with PostgreSQL: generous, and not without an end.

PostgreSQL ends a statement that takes longer (taskpulse/database.py); where it answers nothing at all, the driver gives up
a moment later. Either is an outage to the worker: it connects anew and tries again.
"""

from django.conf import settings
from django.db.backends.signals import connection_created

from taskpulse.web_database import wait_at_most

# Seconds that PostgreSQL's own limit gets to arrive here.
_GRACE = 2.0


def limit() -> None:
    """For a worker's process, before its first connection; 0 waits for ever."""
    if settings.WORKER_STATEMENT_TIMEOUT_MS:
        connection_created.connect(_limit_waits, dispatch_uid="taskpulse.worker_database")


def _limit_waits(connection, **_) -> None:
    wait_at_most(connection.connection, settings.WORKER_STATEMENT_TIMEOUT_MS / 1000 + _GRACE)
