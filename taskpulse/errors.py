"""Errors as RFC 9457 problems: one shape for whatever the API refuses, and never a stack trace.

`handle` is DRF's exception handler; the `handler…` functions are Django's, for what fails before a view is reached (an
unknown path, a foreign Host header). The console keeps Django's own pages.
"""

import logging
import sys
import uuid

import orjson
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django.views import defaults
from rest_framework import exceptions

from taskpulse import problem_types
from tasks.audited import StaleObjectError

log = logging.getLogger("taskpulse.errors")

CONTENT_TYPE = "application/problem+json"
_ENGLISH = "en"
RETRY_AFTER_SECONDS = 2
# What PostgreSQL says of a limit of ours (appendix A). Nothing is wrong with the request and no state of the task stands
# against it, so neither is a 409; and we are no gateway, so that 504 is not ours either (RFC 9110 §15.6): try it again.
_LIMITS = {
    "57014": ("database-timeout", _("The database took too long for this request. Nothing was changed. Try again.")),
    "55P03": ("locked", _("Somebody else is changing the same task and has not finished. Nothing was changed. Try again.")),
}
_UNAVAILABLE = ("database-unavailable", _("The database cannot be used at the moment. Try again."))
_PROGRAM_PATHS = ("/api/", "/audit/", "/healthz", "/health", "/readyz", "/ready", "/metrics")


class Problem(exceptions.APIException):
    """Raised by a view: a status, a sentence for people, and where it applies the list of what is wrong. `type` is a name of
    `taskpulse.problem_types`; None is the first of the status there."""

    def __init__(
        self, status: int, detail: str, errors: list[dict] | None = None, headers: dict | None = None, type: str | None = None
    ):
        super().__init__(detail)
        self.type = problem_types.named(status, type)
        self.status_code = status
        self.text = detail
        self.errors = errors
        self.headers = headers or {}


class InvalidBody(Problem):
    """422; `errors` is a list of `{"pointer": JSON Pointer as a URI fragment, "detail": …}`."""

    def __init__(self, errors: list[dict]):
        super().__init__(422, _("See `errors`: each points at a value and says what was expected."), errors)


class InvalidQuery(Problem):
    """400; `errors` is a list of `{"parameter": name, "detail": …}`."""

    def __init__(self, errors: list[dict]):
        details = format_lazy(" ".join(["{}"] * len(errors)), *(error["detail"] for error in errors))
        super().__init__(400, details, errors, type="invalid-query")


def handle(error, context=None) -> HttpResponse:
    """The problem that tells `error`. What is unknown is logged with its trace and answered by a bare 500."""
    request = (context or {}).get("request")
    request = getattr(request, "_request", request)
    problem = error if isinstance(error, Problem) else _problem(error)
    # There is none yet where what failed is before the middleware that gives it.
    request_id = getattr(request, "request_id", None) or str(uuid.uuid4())
    language = _language(request)
    with translation.override(language):
        content = orjson.dumps(problem_types.document(problem.type, problem.text, request_id, problem.errors))
    answer = HttpResponse(content, status=problem.status_code, content_type=CONTENT_TYPE, headers=problem.headers)
    answer["Content-Language"] = language
    patch_vary_headers(answer, ["Accept-Language"])
    answer._has_been_logged = True  # else Django's handler logs each 5xx a second time
    return answer


def _language(request) -> str:
    """The language that the caller wants most of those that there are (RFC 9110 §12.5.4)."""
    if request is None or "HTTP_ACCEPT_LANGUAGE" not in request.META:
        return _ENGLISH
    return translation.get_language_from_request(request).partition("-")[0]


def _problem(error) -> Problem:
    """An error of Django, DRF or the database as a problem of ours."""
    if isinstance(error, exceptions.MethodNotAllowed):
        return Problem(405, _("There is no such method here; Allow names those that there are."), headers=_headers(error))
    if isinstance(error, exceptions.APIException):
        invalid = isinstance(error, exceptions.AuthenticationFailed)
        return Problem(error.status_code, _sentence(error), headers=_headers(error), type="invalid-token" if invalid else None)
    if isinstance(error, Http404):
        return Problem(404, "There is nothing here.")
    if isinstance(error, PermissionDenied):
        return Problem(403, "You may not do this.")
    if isinstance(error, RequestDataTooBig):
        return Problem(413, too_large())
    if isinstance(error, SuspiciousOperation):
        return Problem(400, "The request is malformed.")
    if isinstance(error, StaleObjectError):
        return Problem(409, "The task was changed or deleted at the same time; read it again.")
    if isinstance(error, (OperationalError, InterfaceError)):
        # The class alone: the driver's message may name hosts and users.
        log.error("the database is unavailable: %s", _cause(error))
        name, detail = _LIMITS.get(getattr(error.__cause__, "sqlstate", None), _UNAVAILABLE)
        return Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}, type=name)
    log.error("a request failed", exc_info=error)
    return Problem(500, "Something went wrong on our side; the log has it under the request's id.")


def too_large():
    return format_lazy(_("The body is larger than {limit} bytes."), limit=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


def _cause(error) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__} {getattr(cause, 'sqlstate', None) or ''}".strip()


def _sentence(error) -> str:
    return error.detail if isinstance(error.detail, str) else "; ".join(str(part) for part in error.get_full_details())


def _headers(error) -> dict:
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = f"{error.wait:.0f}"
    return headers


def is_for_programs(request) -> bool:
    return f"{request.path}/".startswith(_PROGRAM_PATHS)


def bad_request(request, exception):
    if is_for_programs(request):
        return handle(exception, {"request": request})
    if isinstance(exception, RequestDataTooBig):
        return HttpResponse("The form is larger than this service takes.", status=413, content_type="text/plain; charset=utf-8")
    return defaults.bad_request(request, exception)


def permission_denied(request, exception):
    return handle(exception, {"request": request}) if is_for_programs(request) else defaults.permission_denied(request, exception)


def page_not_found(request, exception):
    return handle(exception, {"request": request}) if is_for_programs(request) else defaults.page_not_found(request, exception)


def server_error(request):
    """Django calls this while it handles the exception."""
    error = sys.exc_info()[1]
    if is_for_programs(request):
        return handle(error, {"request": request})
    if isinstance(error, (OperationalError, InterfaceError)):
        answer = HttpResponse("The database cannot be used at the moment.", status=503, content_type="text/plain; charset=utf-8")
        answer["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return answer
    return defaults.server_error(request)
