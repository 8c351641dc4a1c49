"""Probes. Liveness touches nothing; readiness asks the database once. No authentication: they tell no data."""

import functools
import logging

import orjson
from django.db import Error, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from taskpulse import drain
from taskpulse.metrics import BUILD, DEPENDENCY_UP, EMBEDDED, UNAPPLIED
from taskpulse.worker_metrics import registry

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


def _database() -> dict[str, str | None]:
    """What is wrong with the database and its migrations, and how many are applied and not; one statement."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT app, name FROM django_migrations")
            applied = set(cursor.fetchall())
    except Error as error:
        state = getattr(error.__cause__, "sqlstate", None)
        if state != "42P01":  # undefined_table: the database is there and empty
            log.warning("not ready: %s %s", type(error).__name__, state or "")
            UNAPPLIED.replace({})
            return {"database": "cannot be reached", "migrations": "unknown: the database cannot be reached"}
        applied = set()
    missing = sorted(_known_migrations() - applied)
    UNAPPLIED.set(len(missing), connection.alias)
    wrong = None
    if not applied:
        wrong = "no migration is applied: run `manage.py migrate`"
    elif missing:
        first = ".".join(missing[0])
        wrong = f"{len(missing)} not applied, the first is {first}: run `manage.py migrate`"
    return {"database": None, "migrations": wrong}


def ready(request) -> HttpResponse:
    """200 when the database answers and every migration of this code is applied; else 503, naming the check.

    Also 503 from the request to stop on, so that a load balancer sends no more.

    It deliberately ignores Kafka: the web role works without it, since events wait in the outbox.
    """
    if drain.requested():
        answer = _answer({"stopping": "this process was asked to stop: send requests elsewhere"})
        answer._has_been_logged = True  # by gunicorn's master, once; Django would log an error for each question
        return answer
    return _answer(_database())


def metrics(request) -> HttpResponse:
    """What all processes of the web role counted, in Prometheus' text format, and how the database looks from here."""
    for name, wrong in _database().items():
        DEPENDENCY_UP.set(wrong is None, {"database": "postgresql"}.get(name, name))
    page = generate_latest(registry(BUILD, EMBEDDED, DEPENDENCY_UP, UNAPPLIED))
    return HttpResponse(page, content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
