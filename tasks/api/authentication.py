"""Who asks: `Authorization: Bearer tp_…` for programs, Django's session (with CSRF) for people. Deny by default."""

import threading
from time import monotonic
from typing import NamedTuple

from django.conf import settings
from django.db import Error, connection
from django.utils.translation import gettext_lazy as _
from rest_framework import authentication, exceptions

from taskpulse.errors import Problem
from tasks import context, people, tokens

# One statement: the token, its user, and the names of the user's groups. An expired token is no token, nor is one of a person
# who was deactivated.
_LOOKUP = """
SELECT t.id, u.id, u.is_superuser, u.username, u.is_staff,
       ARRAY(SELECT g.name::text FROM auth_user_groups ug JOIN auth_group g ON g.id = ug.group_id WHERE ug.user_id = u.id)
FROM tasks_apitoken t JOIN auth_user u ON u.id = t.user_id
WHERE t.digest = %s AND u.is_active AND (t.expires_at IS NULL OR t.expires_at > now())
"""

# As many tokens are kept at once; then the thread asks for each anew.
_KEPT = 256


class Caller(NamedTuple):
    user: object
    token_id: str
    actor: context.Actor

    @classmethod
    def of(cls, token_id, key, is_superuser, username, is_staff, groups) -> "Caller":
        user = people.of_values(
            id=key, is_superuser=is_superuser, username=username, is_staff=is_staff, is_active=True, role_names=frozenset(groups)
        )
        return cls(user, token_id, context.Actor(str(key), username, "user", token_id))


class _LookedUp(threading.local):
    """What a thread found lately, by digest: who calls, and until when it is believed."""

    def __init__(self):
        self.callers: dict[bytes, tuple[Caller, float]] = {}


_looked_up = _LookedUp()


def _caller(digest: bytes) -> Caller | None:
    """Whose a token is, as this thread saw it TASKPULSE_WEB_TOKEN_CACHE_MS ago at most: what is revoked counts no longer
    than that. What was not found is asked for each time.

    Looking it up is a third of what reading a task costs. Either way a kept connection is known to serve, so Django's own
    check (one more statement a request) is left out.
    """
    connection.health_check_done = True
    kept, now = _looked_up.callers, monotonic()
    caller, until = kept.get(digest, (None, 0.0))
    if now < until and connection.connection is not None:
        return caller
    row = _look_up(digest)
    if row is None:
        return None
    caller = Caller.of(*row)
    if settings.WEB_TOKEN_CACHE_MS:
        if len(kept) >= _KEPT:
            kept.clear()
        kept[digest] = caller, now + settings.WEB_TOKEN_CACHE_MS / 1000
    return caller


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
        caller = None
        if secret.startswith(tokens.PREFIX) and secret.isascii() and len(secret) <= 200:
            caller = _caller(tokens.digest(secret))
        if caller is None:
            raise InvalidToken
        context.current().actor = caller.actor
        return caller.user, caller.token_id

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
