"""The API's description for people: Swagger UI (`/api/docs`), to try it, and ReDoc (`/api/redoc`), to read it.

Both are files of ours, and the policy lets a browser ask nobody else, whatever a later version of them would like to load.
"""

from django.views.generic import TemplateView

# No script stands in the pages themselves; the styles that both make at run time need 'unsafe-inline', ReDoc's search a worker.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "worker-src blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


class _ApiPage(TemplateView):
    def render_to_response(self, context, **options):
        response = super().render_to_response(context, **options)
        response["Content-Security-Policy"] = _POLICY
        response["Cache-Control"] = "no-cache"
        return response


class SwaggerPage(_ApiPage):
    template_name = "taskpulse/swagger.html"


class RedocPage(_ApiPage):
    template_name = "taskpulse/redoc.html"
