"""Which methods a route has: what OPTIONS and `Allow` say of it (RFC 9110 §9.3.7, §10.2.1)."""

from functools import wraps

from django.http import HttpResponse
from django.urls import Resolver404, resolve
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import MethodNotAllowed

from taskpulse.errors import handle, is_for_programs
from tasks.api.parsers import PATCHES


def read_only(view):
    """For a view that is a function and changes nothing: any other method than GET, HEAD and OPTIONS is a 405."""

    @csrf_exempt
    @wraps(view)
    def reading(request, *args, **kwargs):
        if request.method in ("GET", "HEAD"):
            return view(request, *args, **kwargs)
        refusal = handle(MethodNotAllowed(request.method), {"request": request})
        refusal["Allow"] = ", ".join(methods_of(reading))
        return refusal

    return reading


def methods_of(callback) -> list[str]:
    """Of a view as a route names it: one of DRF, by its actions or its handlers, else one that is `read_only`."""
    names = getattr(callback, "actions", None)
    if names is None:
        view = getattr(callback, "cls", None)
        names = [name for name in view.http_method_names if hasattr(view, name)] if view else ("get",)
    found = {name.upper() for name in names} | {"OPTIONS"}
    return sorted(found | {"HEAD"} if "GET" in found else found)


class OptionsMiddleware:
    """Answers OPTIONS for every route of programs, whoever asks: the methods that there are stand in the API's description,
    which is for everybody too."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if request.method != "OPTIONS" or not is_for_programs(request):
            return self.get_response(request)
        try:
            methods = methods_of(resolve(request.path_info).func)
        except Resolver404:
            return self.get_response(request)
        response = HttpResponse(status=204, headers={"Allow": ", ".join(methods)})
        del response["Content-Type"]
        if "PATCH" in methods:
            response["Accept-Patch"] = ", ".join(PATCHES)  # RFC 5789 §3.1
        return response
