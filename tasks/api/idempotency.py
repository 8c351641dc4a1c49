"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a request that is sent again is answered as before, and
not done again.

The answer is kept in the transaction of the write, so that it is there exactly if the write is. Only what was done is
kept: a refusal or a failure rolls back and leaves no key, so that the same request may be tried again with it.
"""

import hashlib
import re
from collections.abc import Callable

import orjson
from django.conf import settings
from django.db import connection
from django.http import HttpResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import Problem
from taskpulse.metrics import KNOWN_KEYS
from tasks import context
from tasks.api import parsers
from tasks.kept_answers import KEPT_HOURS

LENGTH = 255
RETRY_AFTER_SECONDS = 1
# Methods that are not idempotent by themselves (RFC 9110 §9.2.2).
DEMANDED = ("POST", "PATCH")
# An Item of type String (RFC 9651 §3.3.3), as the draft has it; or bare, as most clients send it.
_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_BARE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")
_MISSING = _(
    "Idempotency-Key is missing: expected one key of 1 to {most} printable ASCII characters, in double quotes or without spaces, "
    "quotes, commas, semicolons and backslashes, a new one for each new request."
)
_MALFORMED = _(
    "Idempotency-Key: expected one key of 1 to {most} printable ASCII characters, in double quotes or without spaces, quotes, "
    "commas, semicolons and backslashes."
)
# What makes a request the same, besides its method and body.
_SAME = ("PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")

# The lock says that nobody else is at it: waiting for the other's row instead would take as long as the other does. It is
# taken only where there is no answer, and ends with the transaction, so that it works behind a pooler too.
_LOOK = """
SELECT k.fingerprint, k.status, k.headers::text, k.body, CASE WHEN k.digest IS NULL THEN pg_try_advisory_xact_lock(%s::bigint) END
FROM (VALUES (1)) one LEFT JOIN tasks_kept_answer k ON k.digest = %s
"""
_KEEP = """
INSERT INTO tasks_kept_answer (digest, user_id, fingerprint, status, headers, body) VALUES (%s, %s, %s, %s, %s::jsonb, %s)
ON CONFLICT DO NOTHING RETURNING true
"""

_REUSED = _(
    "The Idempotency-Key was used for another request (method, path, query, content type, If-Match or body) in the last {hours} "
    "hours; take a new key for a new request."
)


def once(request, write: Callable[[], HttpResponse]) -> Callable[[], HttpResponse]:
    """`write` itself for a request without a key; else what runs it, in the caller's transaction, unless it was done.

    The scope of a key is the person, with whichever token. Raises Problem: 400 for a key that is malformed, or is missing
    and demanded (TASKPULSE_REQUIRE_IDEMPOTENCY_KEY). What is returned raises Problem too: 409 while the first request is
    under way, 422 where it was another.
    """
    header = request._request.META.get("HTTP_IDEMPOTENCY_KEY")
    if header is None:
        if settings.REQUIRE_IDEMPOTENCY_KEY and request.method in DEMANDED:
            raise Problem(400, format_lazy(_MISSING, most=LENGTH), type="idempotency-key-required")
        return write
    digest = hashlib.sha256(f"{request.user.pk}:{read_key(header)}".encode()).digest()
    fingerprint = _fingerprint(request._request)

    def write_once() -> HttpResponse:
        kept = _look(digest)
        if kept is not None:
            return _again(kept, fingerprint)
        response = write()
        _keep(digest, request.user.pk, fingerprint, response)
        return response

    return write_once


def read_key(header: str) -> str:
    """The key that the header holds; quoted and bare are the same. Raises Problem 400."""
    header = header.strip(" \t")
    quoted = _STRING.fullmatch(header)
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else header
    if not 1 <= len(key) <= LENGTH or not (quoted or _BARE.fullmatch(key)):
        raise Problem(400, format_lazy(_MALFORMED, most=LENGTH))
    return key


def _fingerprint(request) -> bytes:
    said = [request.META.get(name, "") for name in _SAME]
    body = hashlib.sha256(parsers.read_body(request)).hexdigest()
    return hashlib.sha256(orjson.dumps([request.method, *said, body])).digest()


def _look(digest: bytes) -> tuple | None:
    """Fingerprint, status, headers and body of what is kept; None if nothing is and nobody else is at it."""
    ((*kept, is_ours),) = connection.fetch(_LOOK, [int.from_bytes(digest[:8], signed=True), digest])
    if kept[0] is not None:
        return kept
    if not is_ours:
        raise _in_flight()
    return None


def _again(kept, fingerprint: bytes) -> HttpResponse:
    known, status, headers, body = kept
    if known != fingerprint:
        KNOWN_KEYS.labels("another request").inc()
        raise Problem(
            422,
            format_lazy(_REUSED, hours=KEPT_HOURS),
            type="idempotency-key-reused",
        )
    KNOWN_KEYS.labels("answered again").inc()
    headers = orjson.loads(headers)
    response = HttpResponse(body, status=status, headers=headers | {"Idempotent-Replayed": "true"})
    if "Content-Type" not in headers:
        del response["Content-Type"]
    return response


def _keep(digest: bytes, user_id: int, fingerprint: bytes, response: HttpResponse) -> None:
    headers = orjson.dumps(dict(response.items())).decode()
    # The table is not audited, so that the database need not be told who acts.
    with context.captured():
        if not connection.fetch(_KEEP, [digest, user_id, fingerprint, response.status_code, headers, response.content]):
            # Another did it between our snapshot and our lock. What we wrote is rolled back.
            raise _in_flight()


def _in_flight() -> Problem:
    KNOWN_KEYS.labels("in flight").inc()
    detail = _("A request with this Idempotency-Key is under way; send this one again for its answer.")
    return Problem(409, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}, type="idempotency-key-in-use")
