from django.urls import re_path

from audit.api.export_views import ExportViewSet
from audit.api.log_views import ProofViewSet
from audit.api.views import AuditedViewSet, AuditViewSet, HistoryViewSet

urlpatterns = [
    re_path(r"^tasks/(?P<id>[^/]+)/history/?$", HistoryViewSet.as_view({"get": "list"}), name="task-history"),
    re_path(r"^tasks/(?P<id>[^/]+)/audited/?$", AuditedViewSet.as_view({"get": "retrieve"}), name="task-audited"),
    re_path(r"^audit/?$", AuditViewSet.as_view({"get": "list"}), name="audit-list"),
    re_path(r"^audit/export/?$", ExportViewSet.as_view({"get": "retrieve"}), name="audit-export"),
    re_path(r"^audit/(?P<event_id>[^/]+)/proof/?$", ProofViewSet.as_view({"get": "retrieve"}), name="audit-proof"),
    re_path(r"^audit/(?P<event_id>[^/]+)/?$", AuditViewSet.as_view({"get": "retrieve"}), name="audit-detail"),
]
