"""`/api/problems` and `/api/problems/NAME`: what a problem's `type` leads to, for people as HTML, for programs as JSON."""

import orjson
from django.http import Http404, HttpResponse
from django.shortcuts import render
from rest_framework.exceptions import NotAcceptable

from taskpulse.errors import handle
from taskpulse.http_methods import read_only
from taskpulse.problem_types import BY_NAME, TYPES, ProblemType

# The first is what a client gets that asks for none.
_KINDS = ["application/json", "text/html"]


@read_only
def all_types(request) -> HttpResponse:
    return _answer(request, TYPES, [_told(found) for found in TYPES])


@read_only
def one_type(request, name: str) -> HttpResponse:
    if name not in BY_NAME:
        raise Http404
    found = BY_NAME[name]
    return _answer(request, [found], _told(found))


def _told(found: ProblemType) -> dict:
    return {"type": found.uri, "status": found.status, "title": found.title, "meaning": found.meaning}


def _answer(request, types, document) -> HttpResponse:
    kind = request.get_preferred_type(_KINDS)
    if kind is None:
        return handle(NotAcceptable(f"This resource is {' or '.join(_KINDS)}."), {"request": request})
    if kind == "text/html":
        response = render(request, "taskpulse/problems.html", {"types": types})
    else:
        response = HttpResponse(orjson.dumps(document), content_type=kind)
    response["Vary"] = "Accept, Accept-Encoding"
    response["Cache-Control"] = "no-cache"
    return response
