"""The request's context: who asks, from where, under which id. Where a request begins and ends."""

import re
import uuid
from time import perf_counter

from taskpulse import access, http_headers, tracing
from tasks import context

# What is accepted from a caller: short, printable, no separators that would break a log line.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# W3C Trace Context, version 00.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
REASON_LENGTH = 500


class RequestContextMiddleware:
    """Takes `X-Request-ID` (or makes one) and answers with it; takes `traceparent` and `X-Change-Reason`. Tells of the
    request when it ends (`access.ended`)."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        began = perf_counter()
        meta = request.META  # `request.headers` would copy all of them first
        request_id = meta.get("HTTP_X_REQUEST_ID", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = str(uuid.uuid4())
        traceparent = meta.get("HTTP_TRACEPARENT", "")
        traceparent = traceparent if _TRACEPARENT.fullmatch(traceparent) else None
        span = None
        if tracing.ENABLED and not access.is_quiet(request.path_info):
            span = tracing.begin_request(traceparent)
            # The event names the span that made the change.
            traceparent = tracing.traceparent_of(span)
        current = context.Context(
            request_id=request_id,
            traceparent=traceparent,
            client_ip=meta.get("REMOTE_ADDR") or None,
            reason=_reason(meta.get("HTTP_X_CHANGE_REASON", "")),
            request=request,
        )
        request.request_id = request_id
        with context.use(current):
            response = self.get_response(request)
            response["X-Request-ID"] = request_id
            http_headers.finish(request, response)
            access.ended(request, response.status_code, current, perf_counter() - began, span)
        return response


def _reason(header: str) -> str | None:
    """Header bytes reach WSGI as Latin-1 (PEP 3333); people send UTF-8. Control characters become spaces."""
    if not header:
        return None
    try:
        header = header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        header = header.encode("latin-1", "replace").decode("latin-1")
    header = "".join(character if character.isprintable() else " " for character in header)
    return header.strip()[:REASON_LENGTH] or None
