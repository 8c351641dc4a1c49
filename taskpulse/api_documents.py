"""What a program's author reads first: the description of the API, made by `make openapi` and served as it is committed.

Making it takes a second of CPU, which nobody may cost the service by asking for it. The tests hold the committed one against
what the code would make.
"""

import hashlib
from functools import cache
from pathlib import Path

import orjson
import yaml
from django.http import HttpResponse
from django.utils.cache import get_conditional_response
from rest_framework.exceptions import MethodNotAllowed, NotAcceptable

from taskpulse.errors import handle

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "api"
# The first is what a client gets that asks for none.
_YAML = ["application/vnd.oai.openapi", "application/yaml"]
_JSON = ["application/vnd.oai.openapi+json", "application/json"]


@cache
def _yaml(name: str) -> bytes:
    return (DIRECTORY / f"{name}.yaml").read_bytes()


@cache
def _json(name: str) -> bytes:
    return orjson.dumps(yaml.load(_yaml(name), yaml.CSafeLoader))


def openapi(request) -> HttpResponse:
    """The OpenAPI document as YAML (RFC 9512) or JSON."""
    return _document(request, "openapi")


def _document(request, name: str) -> HttpResponse:
    if request.method not in {"GET", "HEAD"}:
        response = handle(MethodNotAllowed(request.method), {"request": request})
        response["Allow"] = "GET, HEAD"
        return response
    kind = request.get_preferred_type([*_YAML, *_JSON])
    if kind is None:
        return handle(NotAcceptable(f"This document is {', '.join([*_YAML, *_JSON])}."), {"request": request})
    content = _json(name) if kind in _JSON else _yaml(name)
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    response = HttpResponse(content, content_type=kind, headers={"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept"})
    return get_conditional_response(request, etag=etag, response=response)
