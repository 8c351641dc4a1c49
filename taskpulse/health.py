"""Probes. Liveness touches nothing; readiness asks the database once. No authentication: they tell no data."""

import functools
import logging

import orjson
from django.db import Error, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpResponse
from django.urls import resolve

from taskpulse import drain, exposition
from taskpulse.http_methods import read_only
from taskpulse.metrics import UNAPPLIED

log = logging.getLogger("taskpulse.health")

_PROBES = frozenset({"/healthz", "/health", "/readyz", "/ready", "/metrics"})


def is_probe(path: str) -> bool:
    """Whether a machine asks how this process is, or what it counted."""
    return path.removesuffix("/") in _PROBES


def answer(checks: dict[str, str | None], notes: dict[str, str] | None = None) -> tuple[int, str, bytes]:
    """Status, content type and body. `checks`: name to what is wrong, or None. `notes`: what else is to be said; that of no
    check is a warning, for a person and not for an orchestrator."""
    told = {name: {"status": "failed", "detail": wrong} if wrong else {"status": "ok"} for name, wrong in checks.items()}
    for name, note in (notes or {}).items():
        told.setdefault(name, {"status": "warning"}).setdefault("detail", note)
    failed = any(checks.values())
    document = {"status": "unavailable" if failed else "ok", "checks": told}
    return 503 if failed else 200, "application/json", orjson.dumps(document)


def _answer(checks: dict[str, str | None]) -> HttpResponse:
    status, content_type, body = answer(checks)
    response = HttpResponse(body, status=status, content_type=content_type)
    response["Cache-Control"] = "no-store"
    return response


@read_only
def live(request) -> HttpResponse:
    """The process answers. It deliberately asks nothing else: a restart of the web role mends no database."""
    return _answer({})


@functools.cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    """The migrations of this code; read from the disk once."""
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    return frozenset(loader.disk_migrations)


def database_checks() -> dict[str, str | None]:
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


@read_only
def ready(request) -> HttpResponse:
    """200 when the database answers and every migration of this code is applied; else 503, naming the check.

    Also 503 from the request to stop on, so that a load balancer sends no more.

    It deliberately ignores Kafka: the web role works without it, since events wait in the outbox.
    """
    if drain.requested():
        answer = _answer({"stopping": "this process was asked to stop: send requests elsewhere"})
        answer._has_been_logged = True  # by gunicorn's master, once; Django would log an error for each question
        return answer
    return _answer(database_checks())


@read_only
def metrics(request) -> HttpResponse:
    """What all processes of the web role counted, in Prometheus' text format, and how the database looks from here."""
    page = exposition.page(database_checks())
    return HttpResponse(page, content_type=exposition.CONTENT_TYPE, headers={"Cache-Control": "no-store"})


class ProbesMiddleware:
    """Answers probes and metrics under whatever name they are asked for: an orchestrator, a load balancer and Prometheus send
    the process's address as `Host`, which ALLOWED_HOSTS does not hold. No answer is made of that name.

    It stands before whatever asks for the host (CommonMiddleware does), and spares the probes what is for browsers.
    """

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if not is_probe(request.path_info):
            return self.get_response(request)
        request.resolver_match = match = resolve(request.path_info)
        response = match.func(request)
        response.headers["Content-Length"] = str(len(response.content))
        return response
