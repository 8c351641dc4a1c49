"""What is told of each request when it ends: one line in the log, a count and a duration.

Nothing here grows with what callers send: a method that HTTP does not know is OTHER, a path is the template of the route
that matched ("/api/tasks/{id}"), and all that matched none is one label.
"""

import functools
import logging
import re

from django.conf import settings
from prometheus_client import Counter, Histogram
from rest_framework.schemas.generators import EndpointEnumerator

from taskpulse import health, tracing
from tasks.context import Context

logger = logging.getLogger("taskpulse.access")

REQUESTS = Counter("http_requests_total", "HTTP requests answered", ["method", "path", "status"])
# From before the first middleware until the response is made; what a client takes to read it is not in it.
DURATION = Histogram(
    "http_request_duration_seconds",
    "Seconds that it took to answer an HTTP request",
    ["method", "path"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

# RFC 9110 §9.1 and RFC 5789.
_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")}
_OTHER, _UNMATCHED, _STATIC = "OTHER", "unmatched", f"{settings.STATIC_URL}{{path}}"
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LINE = "%(method)s %(route)s %(status)d in %(duration_ms).1f ms"

template_of_regex = EndpointEnumerator().get_path_from_regex


@functools.cache
def template(route: str) -> str:
    """Django's route, a pattern of ours, as OpenAPI writes paths: `api/^tasks/(?P<id>[^/]+)/?$` is "/api/tasks/{id}"."""
    found = template_of_regex(route)
    return found.rstrip("/") or "/"


@functools.cache
def _instruments(method: str, path: str, status: int) -> tuple:
    """Bound once: a look-up by labels costs as much as counting."""
    return REQUESTS.labels(method, path, status).inc, DURATION.labels(method, path).observe


def route_of(request) -> str:
    match = request.resolver_match
    if match is not None:
        return template(match.route)
    return _STATIC if request.path_info.startswith(settings.STATIC_URL) else _UNMATCHED


def is_quiet(path: str) -> bool:
    """Whether a request is one of the many that nobody asks about: a probe, a scrape, a static file. Their lines are for
    debugging."""
    return health.is_probe(path) or path.startswith(settings.STATIC_URL)


def ended(request, status: int, current: Context, seconds: float, span=None) -> None:
    method, route = _METHODS.get(request.method, _OTHER), route_of(request)
    count, observe = _instruments(method, route, status)
    count()
    observe(seconds)
    if span is not None:
        tracing.end_request(span, method, route, status, current.request_id)
    level = logging.DEBUG if is_quiet(request.path_info) and status < 500 else logging.INFO
    if logger.isEnabledFor(level):
        fields = {"method": method, "route": route, "status": status, "duration_ms": round(seconds * 1000, 3)}
        logger.log(level, _LINE, fields | _who_and_what(request, route, current))


def _who_and_what(request, route: str, current: Context) -> dict:
    """Who acted and on which task, as far as it is known: nothing is looked up for the log's sake."""
    actor = current.actor
    if actor is None:
        user = getattr(request, "_cached_user", None)  # set when somebody asked for the session's user
        actor_id = None if user is None else user.pk and str(user.pk)
    else:
        actor_id = actor.id
    found = {"request_id": current.request_id, "actor_id": actor_id, "task_id": _task_id(request, route, current)}
    if current.events:
        found |= {"events": current.events, "event_ids": current.event_ids}
    return found


def _task_id(request, route: str, current: Context) -> str | None:
    if len(current.task_ids) == 1:
        (found,) = current.task_ids
        return found
    if not route.startswith(("/api/tasks/{", "/admin/tasks/task/{")):
        return None
    written = next(iter(request.resolver_match.kwargs.values()))
    return written.lower() if _UUID.fullmatch(written) else None
