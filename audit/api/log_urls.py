from django.urls import re_path

from audit.api.log_views import LogViewSet

_LOG = r"^(?:(?P<log>[1-9][0-9]*)/)?"

urlpatterns = [
    re_path(_LOG + r"checkpoint(?:/(?P<size>[1-9][0-9]*))?\Z", LogViewSet.as_view({"get": "checkpoint"}), name="log-checkpoint"),
    re_path(_LOG + r"tile/(?P<path>.+)\Z", LogViewSet.as_view({"get": "tile"}), name="log-tile"),
]
