from django.urls import re_path

from tasks.api.views import TaskViewSet

# With or without a trailing slash. `id` takes any segment: what is no id of a task is a 404 after authentication.
urlpatterns = [
    re_path(r"^tasks/?$", TaskViewSet.as_view({"get": "list", "post": "create"}), name="task-list"),
    re_path(
        r"^tasks/(?P<id>[^/]+)/?$",
        TaskViewSet.as_view({"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}),
        name="task-detail",
    ),
]
