"""What a caller may do: the view names the right that each method needs, `taskpulse.roles` who has it."""

from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions, permissions

from taskpulse.roles import rights_of


class RolePermission(permissions.BasePermission):
    """Deny by default: a method for which the view names no right does not exist (405), whatever its handlers are."""

    message = _("Your role does not allow this.")

    def has_permission(self, request, view) -> bool:
        if not request.user.is_authenticated:
            return False
        method = "GET" if request.method == "HEAD" else request.method
        right = getattr(view, "rights", {}).get(method)
        if right is None:
            raise exceptions.MethodNotAllowed(request.method)
        return right in rights_of(request.user)
