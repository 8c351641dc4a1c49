"""What every answer says beside its own: who may keep it, what it depends on, and what a page may load.

It runs once for each request, outside of all middleware. A view that says itself who may keep its answer (what is for
everybody, what nobody may keep) says by itself what that depends on, too.
"""

from django.http import HttpResponse
from django.http.response import ResponseHeaders
from django.middleware.security import SecurityMiddleware
from django.utils.cache import patch_vary_headers

from taskpulse import deprecation
from taskpulse.compression import compress

# An answer depends on who asks and on how it is to be written.
_VARY = ("Accept", "Accept-Encoding", "Authorization", "Cookie")
# RFC 9111: kept by the caller's own cache alone, and asked for again each time: If-None-Match then spares the body.
_READ, _OTHER = "private, no-cache", "no-store"
# JSON that a browser is led to show as a page can load and do nothing.
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_PLAIN_PAGE = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# The console takes nothing from another host. Its scripts (Alpine.js, in unfold) stand in the pages too and evaluate
# expressions.
_CONSOLE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_PERMISSIONS = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"


def _always(headers: dict[str, str]) -> dict[str, tuple[str, str]]:
    """As `ResponseHeaders` has them in the end: of each one that is set it looks whether it can be sent."""
    return ResponseHeaders(headers)._store


_KEPT, _NOT_KEPT = (_always({"Cache-Control": kept, "Vary": ", ".join(_VARY)}) for kept in (_READ, _OTHER))
_LOADS_NOTHING = _always({"Content-Security-Policy": _NOTHING})


class SecurityHeadersMiddleware(SecurityMiddleware):
    """Django's, whose headers depend on nothing of a request but its scheme: they are made once for each."""

    def __init__(self, get_response):
        super().__init__(get_response)
        self._of_scheme: dict[bool, dict] = {}

    def process_response(self, request, response):
        is_secure = request.is_secure()
        if is_secure not in self._of_scheme:
            empty = HttpResponse()
            del empty["Content-Type"]
            self._of_scheme[is_secure] = super().process_response(request, empty).headers._store
        response.headers._store = self._of_scheme[is_secure] | response.headers._store
        return response


def finish(request, response) -> None:
    headers, path = response.headers, request.path_info
    content_type = headers.get("Content-Type", "")
    if path.startswith("/api/"):
        if "Cache-Control" not in headers:
            if "Vary" in headers:
                patch_vary_headers(response, _VARY)
            is_read = response.status_code < 400 and request.method in ("GET", "HEAD")
            headers._store = (_KEPT if is_read else _NOT_KEPT) | headers._store
        if deprecation.DEPRECATED:
            deprecation.tell(request, response)
        if "HTTP_ACCEPT_ENCODING" in request.META:
            compress(request, response)
    if content_type.startswith("text/html"):
        headers.setdefault("Content-Security-Policy", _PLAIN_PAGE if path.startswith("/api/") else _CONSOLE)
        headers["Permissions-Policy"] = _PERMISSIONS
    elif content_type:
        headers._store |= _LOADS_NOTHING
