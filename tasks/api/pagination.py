"""Pages by keyset: a cursor names the last row seen, so that a page costs the same wherever it stands.

Cursors are opaque: base64url of a direction and a key. `Link` (RFC 8288) leads on by `next` and back by `prev`.
"""

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import urlencode

from taskpulse.errors import InvalidQuery

LIMIT = 50
MOST = 500
_NEXT, _PREVIOUS = b"n", b"p"


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins: after (`backward` false) or before the row of `key`, newest first; None is the start."""

    limit: int
    key: int | None = None
    backward: bool = False


def encode(key: int, backward: bool) -> str:
    raw = (_PREVIOUS if backward else _NEXT) + key.to_bytes(16, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(cursor: str, most: int) -> tuple[int, bool] | None:
    """Key and direction; None for what this module never gave. `most` is the greatest key there can be."""
    if len(cursor) != 23 or not cursor.isascii():
        return None
    try:
        raw = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    key, direction = int.from_bytes(raw[1:], "big"), raw[:1]
    if direction not in (_NEXT, _PREVIOUS) or key > most or encode(key, direction == _PREVIOUS) != cursor:
        return None
    return key, direction == _PREVIOUS


def read(query, most_key: int) -> Page:
    """`limit` and `cursor` of a query string. Raises InvalidQuery."""
    limit, key, backward = LIMIT, None, False
    errors = []
    if "limit" in query:
        written = query["limit"]
        limit = int(written) if written.isascii() and written.isdigit() and len(written) <= 3 else 0
        if not 1 <= limit <= MOST:
            errors.append({"parameter": "limit", "detail": f"limit: expected a whole number from 1 to {MOST}."})
    if "cursor" in query:
        found = decode(query["cursor"], most_key)
        if found is None:
            detail = "cursor: expected one that a Link header of this list gave; leave it out to start at the newest."
            errors.append({"parameter": "cursor", "detail": detail})
        else:
            key, backward = found
    if errors:
        raise InvalidQuery(errors)
    return Page(limit, key, backward)


@dataclass(frozen=True, slots=True)
class Slice:
    """A page, newest first: its rows as JSON, and the keys from which `prev` and `next` lead on, if they do."""

    texts: list[str]
    newer: int | None
    older: int | None


def cut(rows: list[tuple], at: Page) -> Slice:
    """The page of `(key, JSON)` rows that were read in the direction of `at`, with one row more than fits, if there is one."""
    more = len(rows) > at.limit
    rows = rows[: at.limit]
    if at.backward:
        rows.reverse()
    if not rows:
        return Slice([], None, None)
    newer = rows[0][0] if (more if at.backward else at.key is not None) else None
    older = rows[-1][0] if (at.backward or more) else None
    return Slice([text for _, text in rows], newer, older)


def link(request, newer: int | None, older: int | None) -> str | None:
    """The Link header: `older` is the key after which the next page begins, `newer` the one before which the previous ends."""
    if newer is None and older is None:
        return None
    given = [(name, value) for name, values in request.GET.lists() if name != "cursor" for value in values]
    start = f"{request.scheme}://{request.get_host()}{request.path}?"
    links = []
    for relation, key in (("next", older), ("prev", newer)):
        if key is not None:
            query = urlencode([*given, ("cursor", encode(key, backward=relation == "prev"))])
            links.append(f'<{start}{query}>; rel="{relation}"')
    return ", ".join(links)
