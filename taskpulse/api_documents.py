"""What a program's author reads first: the descriptions of API, topics and events, made by `make openapi` and served as committed.

Making it takes a second of CPU, which nobody may cost the service by asking for it. The tests hold the committed one against
what the code would make.
"""

import hashlib
from functools import cache
from pathlib import Path

import orjson
import yaml
from django.http import Http404, HttpResponse
from django.utils.cache import get_conditional_response
from rest_framework.exceptions import NotAcceptable

from taskpulse.errors import handle
from taskpulse.http_methods import read_only

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "api"
# The first is what a client gets that asks for none.
_YAML = ["application/vnd.oai.openapi", "application/yaml"]
_JSON = ["application/vnd.oai.openapi+json", "application/json"]
_ASYNC_YAML = ["application/vnd.aai.asyncapi", "application/yaml"]
_ASYNC_JSON = ["application/vnd.aai.asyncapi+json", "application/json"]
_SCHEMA = ["application/schema+json", "application/json"]


@cache
def _yaml(name: str) -> bytes:
    return (DIRECTORY / f"{name}.yaml").read_bytes()


@cache
def _json(name: str) -> bytes:
    return orjson.dumps(yaml.load(_yaml(name), yaml.CSafeLoader))


@cache
def _schemas() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (DIRECTORY / "schemas").glob("*.json")}


@read_only
def openapi(request) -> HttpResponse:
    """The OpenAPI document as YAML (RFC 9512) or JSON."""
    return _answer(request, {kind: _yaml for kind in _YAML} | {kind: _json for kind in _JSON}, "openapi")


@read_only
def asyncapi(request) -> HttpResponse:
    """The AsyncAPI document as YAML or JSON; what it refers to stands beside it here too."""
    return _answer(request, {kind: _yaml for kind in _ASYNC_YAML} | {kind: _json for kind in _ASYNC_JSON}, "asyncapi")


@read_only
def schema(request, name: str) -> HttpResponse:
    """The JSON Schema of the events about one kind of subject."""
    return _answer(request, dict.fromkeys(_SCHEMA, _schemas().get), name)


def _answer(request, forms: dict, name: str) -> HttpResponse:
    """`forms`: by media type, the most preferred first, what gives a document's bytes by its name, or None."""
    kind = request.get_preferred_type(list(forms))
    if kind is None:
        return handle(NotAcceptable(f"This document is {', '.join(forms)}."), {"request": request})
    content = forms[kind](name)
    if content is None:
        return handle(Http404(), {"request": request})
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    response = HttpResponse(content, content_type=kind, headers={"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept"})
    return get_conditional_response(request, etag=etag, response=response)
