"""Content negotiation for resources that have one representation: JSON."""

from rest_framework import exceptions, negotiation, renderers

_MATCHES = {"*/*", "application/*", "application/json"}


class JsonNegotiation(negotiation.BaseContentNegotiation):
    """406 only for an Accept header that excludes JSON (RFC 9110 §12.5.1); no format suffix, no `?format=`."""

    def select_parser(self, request, parsers):
        return parsers[0]

    def select_renderer(self, request, renderers, format_suffix=None):
        accept = request._request.META.get("HTTP_ACCEPT", "*/*")
        if accept not in _MATCHES and not accepts_json(accept):
            raise exceptions.NotAcceptable("This resource is application/json only.")
        return renderers[0], "application/json"


def accepts_json(header: str) -> bool:
    """The most specific range that matches decides; its weight must not be 0."""
    weights = {}
    for part in header.split(","):
        kind, *parameters = (text.strip().lower() for text in part.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        weights[kind] = weight.strip("0.") != ""
    for kind in ("application/json", "application/*", "*/*"):
        if kind in weights:
            return weights[kind]
    return not header.strip()


class JsonRenderer(renderers.BaseRenderer):
    """For the schema's sake: the views hand over bytes that PostgreSQL or orjson wrote."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return data
