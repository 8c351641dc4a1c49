"""Who asks: `Authorization: Bearer tp_…` for programs, Django's session (with CSRF) for people. Deny by default."""

import threading
from time import monotonic

from django.conf import settings
from django.db import Error, connection
from django.utils.translation import gettext_lazy as _
from rest_framework import authentication, exceptions

from taskpulse.errors import Problem
from tasks import context, people, tokens

# One statement: the token, its user, and the names of the user's groups. An expired token is no token.
_LOOKUP = """
SELECT t.id, u.id, u.is_superuser, u.username, u.is_staff, u.is_active,
       ARRAY(SELECT g.name::text FROM auth_user_groups ug JOIN auth_group g ON g.id = ug.group_id WHERE ug.user_id = u.id)
FROM tasks_apitoken t JOIN auth_user u ON u.id = t.user_id
WHERE t.digest = %s AND (t.expires_at IS NULL OR t.expires_at > now())
"""

# As many tokens are kept at once; then the thread asks for each anew.
_KEPT = 256


class _LookedUp(threading.local):
    """What a thread found lately, by digest: the row, and until when it is believed."""

    def __init__(self):
        self.rows: dict[bytes, tuple[tuple, float]] = {}


_looked_up = _LookedUp()


def _row(digest: bytes) -> tuple | None:
    """The row of a token, as this thread saw it TASKPULSE_WEB_TOKEN_CACHE_MS ago at most: what is revoked counts no longer
    than that. What was not found is asked for each time.

    Looking it up is a third of what reading a task costs. Either way a kept connection is known to serve, so Django's own
    check (one more statement a request) is left out.
    """
    connection.health_check_done = True
    kept, now = _looked_up.rows, monotonic()
    row, until = kept.get(digest, (None, 0.0))
    if now < until and connection.connection is not None:
        return row
    row = _look_up(digest)
    if row is not None and settings.WEB_TOKEN_CACHE_MS:
        if len(kept) >= _KEPT:
            kept.clear()
        kept[digest] = row, now + settings.WEB_TOKEN_CACHE_MS / 1000
    return row


def _look_up(digest: bytes) -> tuple | None:
    """A broken connection is replaced once."""
    try:
        return _fetch(digest)
    except Error:
        if connection.in_atomic_block or (connection.connection is not None and connection.is_usable()):
            raise
        connection.close()
        return _fetch(digest)


def _fetch(digest: bytes) -> tuple | None:
    rows = connection.fetch(_LOOKUP, [digest])
    return rows[0] if rows else None


class BearerAuthentication(authentication.BaseAuthentication):
    """API tokens (RFC 6750, header only). The digest is looked up, never compared in Python: a secret has 256 random
    bits, and how long the look-up of its SHA-256 takes tells nothing about it."""

    def authenticate(self, request):
        header = request._request.META.get("HTTP_AUTHORIZATION", "")
        if header[:7].lower() != "bearer ":
            return None
        secret = header[7:].strip()
        row = None
        if secret.startswith(tokens.PREFIX) and secret.isascii() and len(secret) <= 200:
            row = _row(tokens.digest(secret))
        if row is None or not row[5]:
            raise InvalidToken
        token_id, key, is_superuser, username, is_staff, is_active, groups = row
        user = people.of_values(
            id=key,
            is_superuser=is_superuser,
            username=username,
            is_staff=is_staff,
            is_active=is_active,
            role_names=frozenset(groups),
        )
        context.current().actor = context.Actor(str(key), username, "user", token_id)
        return user, token_id

    def authenticate_header(self, request) -> str:
        return 'Bearer realm="taskpulse"'


class InvalidToken(exceptions.AuthenticationFailed):
    default_detail = _("The token is unknown, expired, or belongs to a person who was deactivated.")


class SessionAuthentication(authentication.SessionAuthentication):
    """A person signed in to the console; unsafe methods need the CSRF token."""

    def authenticate(self, request):
        found = super().authenticate(request)
        if found is not None:
            context.current().actor = context.Actor.of_user(found[0], "session")
        return found

    def enforce_csrf(self, request):
        try:
            super().enforce_csrf(request)
        except exceptions.PermissionDenied:
            raise Problem(403, "The CSRF token is missing or wrong; send it in X-CSRFToken.", type="csrf-failed") from None
