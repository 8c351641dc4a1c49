"""Content negotiation for resources that have one representation: JSON."""

from rest_framework import exceptions, negotiation, renderers

# Headers that ask for JSON, without a look at their parts; None: there is none.
PLAIN = {None, "*/*", "application/*", "application/json"}


class JsonNegotiation(negotiation.BaseContentNegotiation):
    """406 only for an Accept header that excludes JSON (RFC 9110 §12.5.1); no format suffix, no `?format=`."""

    def select_parser(self, request, parsers):
        return parsers[0]

    def select_renderer(self, request, renderers, format_suffix=None):
        accept = request._request.META.get("HTTP_ACCEPT")
        if accept not in PLAIN and not accepts_json(accept):
            raise exceptions.NotAcceptable("This resource is application/json only.")
        return renderers[0], "application/json"


def accepts_json(header: str) -> bool:
    return preferred(header, ("application/json",)) is not None


def preferred(header: str, offered: tuple[str, ...]) -> str | None:
    """Of the media types offered the one with the greatest weight, the first of equals; None if the header excludes them
    all. The most specific range that matches a type decides (RFC 9110 §12.5.1)."""
    if not header.strip():
        return offered[0]
    weights = {}
    for part in header.split(","):
        kind, *parameters = (text.strip().lower() for text in part.split(";"))
        weights[kind] = _weight(next((p[2:] for p in parameters if p.startswith("q=")), "1"))
    best = {}
    for kind in offered:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        best[kind] = next((weights[one] for one in ranges if one in weights), 0.0)
    chosen = max(offered, key=best.__getitem__)
    return chosen if best[chosen] > 0 else None


def _weight(written: str) -> float:
    """What is no weight counts as one."""
    try:
        return float(written)
    except ValueError:
        return 1.0


class JsonRenderer(renderers.BaseRenderer):
    """For the schema's sake: the views hand over bytes that PostgreSQL or orjson wrote."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return data
