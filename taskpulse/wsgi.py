"""The WSGI application: programs that sign in with a token pass by what serves browsers alone."""

import os

import django
from django.conf import settings
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.middleware.security import SecurityMiddleware

from taskpulse import proxies

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")


class Handler(WSGIHandler):
    """Sessions, CSRF, messages and static files are for browsers. A request to the API that bears a token needs none of
    them, and they cost a tenth of a read: it has a chain of its own, with the request's context and the security headers.
    """

    def load_middleware(self, is_async=False):
        from taskpulse.middleware import RequestContextMiddleware

        super().load_middleware(is_async)
        for_browsers = self._middleware_chain
        for_programs = convert_exception_to_response(self._get_response)
        for middleware in (SecurityMiddleware, RequestContextMiddleware):
            for_programs = convert_exception_to_response(middleware(for_programs))

        def chain(request):
            if not (request.path_info.startswith("/api/") and request.META.get("HTTP_AUTHORIZATION")):
                return for_browsers(request)
            response = for_programs(request)
            if not response.streaming and not response.has_header("Content-Length"):
                response["Content-Length"] = str(len(response.content))
            return response

        self._middleware_chain = chain


django.setup(set_prefix=False)
application = proxies.trusting(settings.TRUSTED_PROXIES, Handler())
