"""Errors as RFC 9457 problems: one shape for whatever the API refuses, and never a stack trace.

`handle` is DRF's exception handler; the `handler…` functions are Django's, for what fails before a view is reached (an
unknown path, a foreign Host header). The console keeps Django's own pages.
"""

import logging
import sys
from http import HTTPStatus

import orjson
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from django.views import defaults
from rest_framework import exceptions

from tasks.audited import StaleObjectError

log = logging.getLogger("taskpulse.errors")

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
# RFC 9110's names; Python's differ from version to version.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
# What PostgreSQL says of a limit of ours (appendix A). Nothing is wrong with the request and no state of the task stands
# against it, so neither is a 409; and we are no gateway, so that 504 is not ours either (RFC 9110 §15.6): try it again.
_LIMITS = {
    "57014": "The database took too long for this request. Nothing was changed. Try again.",
    "55P03": "Somebody else is changing the same task and has not finished. Nothing was changed. Try again.",
}
_PROGRAM_PATHS = ("/api/", "/audit/", "/healthz", "/health", "/readyz", "/ready", "/metrics")


class Problem(exceptions.APIException):
    """Raised by a view: a status, a sentence for people, and where it applies the list of what is wrong."""

    def __init__(self, status: int, detail: str, errors: list[dict] | None = None, headers: dict | None = None):
        super().__init__(detail)
        self.status_code = status
        self.text = detail
        self.errors = errors
        self.headers = headers or {}


class InvalidBody(Problem):
    """422; `errors` is a list of `{"pointer": JSON Pointer as a URI fragment, "detail": …}`."""

    def __init__(self, errors: list[dict]):
        super().__init__(422, "The body has wrong values; see `errors`.", errors)


class InvalidQuery(Problem):
    """400; `errors` is a list of `{"parameter": name, "detail": …}`."""

    def __init__(self, errors: list[dict]):
        super().__init__(400, " ".join(error["detail"] for error in errors), errors)


def response(status: int, detail: str, *, request=None, errors=None, headers=None) -> HttpResponse:
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        document["errors"] = errors
    request_id = getattr(request, "request_id", None)
    if request_id:
        document["request_id"] = request_id
    answer = HttpResponse(orjson.dumps(document), status=status, content_type=CONTENT_TYPE)
    for name, value in (headers or {}).items():
        answer[name] = value
    return answer


def handle(error, context=None) -> HttpResponse:
    """The problem that tells `error`. What is unknown is logged with its trace and answered by a bare 500."""
    request = (context or {}).get("request")
    request = getattr(request, "_request", request)
    status, detail, errors, headers = _describe(error, request)
    answer = response(status, detail, request=request, errors=errors, headers=headers)
    answer._has_been_logged = True  # else Django's handler logs each 5xx a second time
    return answer


def _describe(error, request) -> tuple[int, str, list | None, dict]:
    if isinstance(error, Problem):
        return error.status_code, error.text, error.errors, error.headers
    if isinstance(error, exceptions.APIException):
        return error.status_code, _sentence(error), None, _headers(error)
    if isinstance(error, Http404):
        return 404, "There is nothing here.", None, {}
    if isinstance(error, PermissionDenied):
        return 403, "You may not do this.", None, {}
    if isinstance(error, RequestDataTooBig):
        return 413, "The body is larger than this service takes.", None, {}
    if isinstance(error, SuspiciousOperation):
        return 400, "The request is malformed.", None, {}
    if isinstance(error, StaleObjectError):
        return 409, "The task was changed or deleted at the same time; read it again.", None, {}
    if isinstance(error, (OperationalError, InterfaceError)):
        # The class alone: the driver's message may name hosts and users.
        log.error("the database is unavailable: %s", _cause(error))
        state = getattr(error.__cause__, "sqlstate", None)
        detail = _LIMITS.get(state, "The database cannot be used at the moment. Try again.")
        return 503, detail, None, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    log.error("a request failed", exc_info=error)
    return 500, "Something went wrong on our side; the log has it under the request's id.", None, {}


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


def _of_program(request) -> bool:
    return f"{request.path}/".startswith(_PROGRAM_PATHS)


def bad_request(request, exception):
    if _of_program(request):
        return handle(exception, {"request": request})
    if isinstance(exception, RequestDataTooBig):
        return HttpResponse("The form is larger than this service takes.", status=413, content_type="text/plain; charset=utf-8")
    return defaults.bad_request(request, exception)


def permission_denied(request, exception):
    return handle(exception, {"request": request}) if _of_program(request) else defaults.permission_denied(request, exception)


def page_not_found(request, exception):
    return handle(exception, {"request": request}) if _of_program(request) else defaults.page_not_found(request, exception)


def server_error(request):
    """Django calls this while it handles the exception."""
    error = sys.exc_info()[1]
    if _of_program(request):
        return handle(error, {"request": request})
    if isinstance(error, (OperationalError, InterfaceError)):
        answer = HttpResponse("The database cannot be used at the moment.", status=503, content_type="text/plain; charset=utf-8")
        answer["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return answer
    return defaults.server_error(request)
