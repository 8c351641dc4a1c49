"""What every answer says beside its own: who may keep it, what it depends on, and what a page may load.

It runs once for each request, outside of all middleware. A view that says itself who may keep its answer (what is for
everybody, what nobody may keep) says by itself what that depends on, too.
"""

from django.utils.cache import patch_vary_headers

from taskpulse import deprecation
from taskpulse.compression import compress

# An answer depends on who asks and on how it is to be written.
_VARY = ("Accept", "Accept-Encoding", "Authorization", "Cookie")
_VARY_HEADER = ", ".join(_VARY)
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


def finish(request, response) -> None:
    headers, path = response.headers, request.path_info
    content_type = headers.get("Content-Type", "")
    if path.startswith("/api/"):
        if "Cache-Control" not in headers:
            headers["Cache-Control"] = _READ if response.status_code < 400 and request.method in ("GET", "HEAD") else _OTHER
            if "Vary" in headers:
                patch_vary_headers(response, _VARY)
            else:
                headers["Vary"] = _VARY_HEADER
        if deprecation.DEPRECATED:
            deprecation.tell(request, response)
        if "HTTP_ACCEPT_ENCODING" in request.META:
            compress(request, response)
    if content_type.startswith("text/html"):
        headers.setdefault("Content-Security-Policy", _PLAIN_PAGE if path.startswith("/api/") else _CONSOLE)
        headers["Permissions-Policy"] = _PERMISSIONS
    elif content_type:
        headers["Content-Security-Policy"] = _NOTHING
