"""Where a client reaches this service: what absolute URLs in answers begin with."""

from django.conf import settings

# By the header, and the setting that it passed: what Django has looked at once. To look is a hundredth of a creation.
_hosts: dict[tuple[str, ...], str] = {}
_KEPT = 256


def origin(request) -> str:
    """`https://tasks.example.org`, by the name that a Django request gives. Raises DisallowedHost."""
    named = request.META.get("HTTP_HOST", ""), *settings.ALLOWED_HOSTS
    host = _hosts.get(named)
    if host is None:
        host = request.get_host()
        if len(_hosts) >= _KEPT:
            _hosts.clear()
        if named[0]:
            _hosts[named] = host
    return f"{request.scheme}://{host}"
