"""The WSGI application: programs that sign in with a token pass by what serves browsers alone."""

import os

import django
from django.conf import LazySettings, settings
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.http.response import ResponseHeaders
from django.utils.log import log_response
from django.utils.module_loading import import_string

from taskpulse import proxies

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")

# Answers whose length would be said of a body that they have not: 304 stands for one of another length (RFC 9110 §8.6).
_BODILESS = (204, 304)


class Handler(WSGIHandler):
    """Sessions, CSRF, messages and static files are for browsers. A request to the API that bears a token needs none of
    them, and they cost a tenth of a read: it has a chain of its own, with the request's context and the security headers.
    """

    def load_middleware(self, is_async=False):
        super().load_middleware(is_async)
        for_browsers = self._middleware_chain
        for_programs = convert_exception_to_response(self._get_response)
        for name in reversed(settings.PROGRAM_MIDDLEWARE):
            for_programs = convert_exception_to_response(import_string(name)(for_programs))

        def chain(request):
            of_program = request.path_info.startswith("/api/") and request.META.get("HTTP_AUTHORIZATION")
            if not of_program or request.method == "OPTIONS":
                return for_browsers(request)
            response = for_programs(request)
            if not response.streaming and not response.has_header("Content-Length"):
                response["Content-Length"] = str(len(response.content))
            return response

        self._middleware_chain = chain
        self._fixed = {}

    def get_response(self, request):
        """As Django's, but that nothing here has routes of its own (`request.urlconf`): to say so costs as much as to find one."""
        response = self._middleware_chain(request)
        response._resource_closers.append(request.close)
        if response.status_code in _BODILESS:
            del response["Content-Length"]
        if response.status_code >= 400:
            log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
        return response

    def resolve_request(self, request):
        """As Django's; a path without parameters, of which there are few, is looked for once."""
        match = self._fixed.get(request.path_info)
        if match is None:
            match = super().resolve_request(request)
            if not match.args and not match.kwargs:
                self._fixed[request.path_info] = match
        request.resolver_match = match
        return match


django.setup(set_prefix=False)
# A request asks for some twenty settings. At each access, a lazy object looks whether a method of its own stands before one of what
# it wraps: by a function in Python, and for nothing where that has no methods.
LazySettings.__getattribute__ = object.__getattribute__
# The headers of each answer are listed: as they are kept, where a mapping asks for each by its name.
ResponseHeaders.items = lambda headers: headers._store.values()
application = proxies.trusting(settings.TRUSTED_PROXIES, Handler())
