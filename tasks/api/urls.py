from django.urls import re_path

from tasks.api.bulk_views import BulkViewSet
from tasks.api.comments import CommentViewSet
from tasks.api.labels import LabelViewSet
from tasks.api.subtasks import SubtaskViewSet
from tasks.api.views import TaskViewSet
from tasks.api.watchers import WatcherViewSet

# With or without a trailing slash. `id` takes any segment: what is no id of a task is a 404 after authentication.
urlpatterns = [
    re_path(r"^tasks/?$", TaskViewSet.as_view({"get": "list", "post": "create"}), name="task-list"),
    re_path(r"^tasks/bulk/?$", BulkViewSet.as_view({"post": "create"}), name="task-bulk"),
    re_path(
        r"^tasks/(?P<id>[^/]+)/?$",
        TaskViewSet.as_view({"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}),
        name="task-detail",
    ),
    re_path(
        r"^tasks/(?P<id>[^/]+)/comments/?$", CommentViewSet.as_view({"get": "list", "post": "create"}), name="task-comment-list"
    ),
    re_path(
        r"^tasks/(?P<id>[^/]+)/comments/(?P<comment_id>[^/]+)/?$",
        CommentViewSet.as_view({"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}),
        name="task-comment-detail",
    ),
    re_path(r"^tasks/(?P<id>[^/]+)/watchers/?$", WatcherViewSet.as_view({"get": "list"}), name="task-watcher-list"),
    re_path(
        r"^tasks/(?P<id>[^/]+)/watchers/(?P<user>[^/]+)/?$",
        WatcherViewSet.as_view({"put": "update", "delete": "destroy"}),
        name="task-watcher-detail",
    ),
    re_path(r"^tasks/(?P<id>[^/]+)/subtasks/?$", SubtaskViewSet.as_view({"get": "list"}), name="task-subtask-list"),
    re_path(r"^labels/?$", LabelViewSet.as_view({"get": "list", "post": "create"}), name="label-list"),
    # A name may hold a slash, written as %2F, which servers decode before anybody sees the path.
    re_path(
        r"^labels/(?P<label>.+?)/?$",
        LabelViewSet.as_view({"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}),
        name="label-detail",
    ),
]
