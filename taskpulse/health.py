"""Probes. Liveness touches nothing; readiness asks the database once. No authentication: they tell no data."""

import functools
import logging

import orjson
from django.db import Error, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpResponse

from taskpulse import drain

log = logging.getLogger("taskpulse.health")


def _answer(checks: dict[str, str | None]) -> HttpResponse:
    """`checks`: name to what is wrong, or None."""
    failed = any(checks.values())
    document = {
        "status": "unavailable" if failed else "ok",
        "checks": {
            name: {"status": "ok"} if wrong is None else {"status": "failed", "detail": wrong} for name, wrong in checks.items()
        },
    }
    answer = HttpResponse(orjson.dumps(document), status=503 if failed else 200, content_type="application/json")
    answer["Cache-Control"] = "no-store"
    return answer


def live(request) -> HttpResponse:
    """The process answers. It deliberately asks nothing else: a restart of the web role mends no database."""
    return _answer({})


@functools.cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    """The migrations of this code; read from the disk once."""
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    return frozenset(loader.disk_migrations)


def ready(request) -> HttpResponse:
    """200 when the database answers and every migration of this code is applied; else 503, naming the check.

    Also 503 from the request to stop on, so that a load balancer sends no more.

    It deliberately ignores Kafka: the web role works without it, since events wait in the outbox.
    """
    if drain.requested():
        return _answer({"stopping": "this process was asked to stop: send requests elsewhere"})
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT app, name FROM django_migrations")
            applied = set(cursor.fetchall())
    except Error as error:
        state = getattr(error.__cause__, "sqlstate", None)
        if state == "42P01":  # undefined_table: the database is there and empty
            return _answer({"database": None, "migrations": "no migration is applied: run `manage.py migrate`"})
        log.warning("not ready: %s %s", type(error).__name__, state or "")
        return _answer({"database": "cannot be reached", "migrations": "unknown: the database cannot be reached"})
    missing = sorted(_known_migrations() - applied)
    wrong = None
    if missing:
        first = ".".join(missing[0])
        wrong = f"{len(missing)} not applied, the first is {first}: run `manage.py migrate`"
    return _answer({"database": None, "migrations": wrong})
