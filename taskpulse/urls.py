from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from audit.api.views import read_past
from taskpulse import api_documents, api_pages, health, problem_pages
from taskpulse.http_methods import read_only
from tasks.api.views import TaskViewSet

TaskViewSet.read_past = staticmethod(read_past)

# Django tries them in this order: what is asked for most stands first.
urlpatterns = [
    path("api/", include("tasks.api.urls")),
    path("api/", include("audit.api.urls")),
    re_path(r"^healthz?/?$", health.live, name="live"),
    re_path(r"^readyz?/?$", health.ready, name="ready"),
    re_path(r"^metrics/?$", health.metrics, name="metrics"),
    path("audit/", include("audit.api.log_urls")),
    re_path(r"^api/schema/?$", api_documents.openapi, name="schema"),
    re_path(r"^api/problems/?$", problem_pages.all_types, name="problems"),
    re_path(r"^api/problems/(?P<name>[a-z-]+)/?$", problem_pages.one_type, name="problem"),
    re_path(r"^api/asyncapi/?$", api_documents.asyncapi, name="asyncapi"),
    re_path(r"^api/schemas/(?P<name>[^/]+)/?$", api_documents.schema, name="event-schema"),
    re_path(r"^api/docs/?$", read_only(api_pages.SwaggerPage.as_view()), name="docs"),
    re_path(r"^api/redoc/?$", read_only(api_pages.RedocPage.as_view()), name="redoc"),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(url="/admin/"), name="root"),
]

handler400 = "taskpulse.errors.bad_request"
handler403 = "taskpulse.errors.permission_denied"
handler404 = "taskpulse.errors.page_not_found"
handler500 = "taskpulse.errors.server_error"
