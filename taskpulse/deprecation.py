"""Routes that are to go: named here once, told in each answer (RFC 9745, RFC 8594) and in the OpenAPI document."""

from datetime import datetime
from typing import NamedTuple

from django.utils.http import http_date

from taskpulse import access


class Deprecation(NamedTuple):
    """Deprecated from `since`, gone from `sunset` on, if that is known; `link` leads to what to use instead."""

    since: datetime
    link: str
    sunset: datetime | None = None


# By the path as the OpenAPI document writes it: "/api/tasks/{id}". Nothing is deprecated at present.
DEPRECATED: dict[str, Deprecation] = {}


def tell(request, response) -> None:
    found = DEPRECATED.get(access.route_of(request))
    if found is None:
        return
    response["Deprecation"] = f"@{int(found.since.timestamp())}"
    if found.sunset:
        response["Sunset"] = http_date(found.sunset.timestamp())
    link = f'<{found.link}>; rel="deprecation"; type="text/html"'
    response["Link"] = f"{response['Link']}, {link}" if "Link" in response else link


def mark(result, generator, request, public):
    """A hook of drf-spectacular: `deprecated: true` on each operation of such a path."""
    for path in DEPRECATED.keys() & result["paths"].keys():
        for operation in result["paths"][path].values():
            operation["deprecated"] = True
    return result
