"""The body of a request: JSON (RFC 8259), read whole, bounded by DATA_UPLOAD_MAX_MEMORY_SIZE."""

import json

import orjson
from django.conf import settings
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from gunicorn.http.errors import ParseException
from rest_framework import parsers

from taskpulse.errors import InvalidBody, Problem, too_large

_MEDIA_TYPE = "application/json"
# PATCH takes JSON Merge Patch (RFC 7396), and plain JSON as the same.
PATCHES = ("application/merge-patch+json", _MEDIA_TYPE)
# Nobody knows where the next request would begin.
_LAST = {"Connection": "close"}


class JsonParser(parsers.BaseParser):
    media_type = _MEDIA_TYPE

    def parse(self, stream, media_type=None, parser_context=None):
        return read_json(parser_context["request"]._request)


def read_object(request) -> dict:
    """The body of a Django request as a dict. Raises Problem: 400 for no JSON, 413, 415, 422 for another type."""
    document = read_json(request)
    if type(document) is not dict:
        raise InvalidBody([{"pointer": "#", "detail": _("expected an object")}])
    return document


def read_json(request):
    media_type = request.META.get("CONTENT_TYPE", "")
    raw = read_body(request)
    if raw or media_type:
        _check_media_type(media_type, request.method)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if b"\\u" in raw:
            document = _with_lone_surrogates(raw)
            if document is not None:
                return document
        detail = format_lazy(_("The body is not JSON: {why}."), why=str(error)[:200])
        raise Problem(400, detail) from None


def _check_media_type(header: str, method: str) -> None:
    if header == _MEDIA_TYPE:
        return
    expected = PATCHES if method == "PATCH" else (_MEDIA_TYPE,)
    kind, *parameters = (part.strip().lower() for part in header.split(";"))
    charset = next((p.partition("=")[2].strip('"') for p in parameters if p.startswith("charset=")), "utf-8")
    if kind not in expected or charset not in {"utf-8", "utf8"}:
        # RFC 9110 §15.5.16 for the first, RFC 5789 §2.2 for the second.
        name = "Accept-Patch" if method == "PATCH" else "Accept"
        detail = format_lazy(_("The body must be {expected} in UTF-8."), expected=" / ".join(expected))
        raise Problem(415, detail, headers={name: ", ".join(expected)})


def read_body(request) -> bytes:
    """The body of a Django request, as often as one likes. Raises Problem: 400, 408, 413.

    A body without a length (RFC 9112 §7.1, chunked) is read from the server's stream, which knows its end."""
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    try:
        if hasattr(request, "_body") or "chunked" not in request.META.get("HTTP_TRANSFER_ENCODING", "").lower():
            raw = request.body
            if len(raw) < int(request.META.get("CONTENT_LENGTH") or 0):
                raise Problem(408, "The body did not arrive in time.", headers=_LAST)
            return raw
        raw = request._body = request.META["wsgi.input"].read(limit + 1)
    except (OSError, ParseException):
        raise Problem(400, "The body ended early, or its chunks are malformed.", headers=_LAST) from None
    if len(raw) > limit:
        raise Problem(413, too_large())
    return raw


def _with_lone_surrogates(raw: bytes):
    r"""The document if only `"\ud800"` and its like are wrong with it, so that the answer can name the field."""
    try:
        return json.loads(raw.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant):
    raise ValueError(constant)
