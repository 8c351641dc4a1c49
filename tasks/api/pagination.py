"""Pages by keyset: a cursor names the last row seen, so that a page costs the same wherever it stands.

Cursors are opaque: base64url of a direction and a key. `Link` (RFC 8288) leads on by `next` and back by `prev`.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import InvalidQuery
from tasks.api.origins import origin

LIMIT = 50
MOST = 500
# Of a name of 64 characters in UTF-8.
_LONGEST = 350
# More than a table can have.
EVERYTHING = 10**18
_NEXT, _PREVIOUS = b"n", b"p"


class Keys(Protocol):
    """How the keys of a list are written in its cursors."""

    def write(self, key) -> bytes: ...

    def read(self, raw: bytes) -> Any:
        """The key; None for what `write` never gave."""


class NumberKeys(NamedTuple):
    """Keys that are whole numbers from 0 to `most`."""

    most: int

    def write(self, key: int) -> bytes:
        return key.to_bytes(16, "big")

    def read(self, raw: bytes) -> int | None:
        key = int.from_bytes(raw, "big")
        return key if len(raw) == 16 and key <= self.most else None


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins: after (`backward` false) or before the row of `key`, in the list's order; None is the start."""

    limit: int = LIMIT
    key: Any = None
    backward: bool = False


def encode(keys: Keys, key, backward: bool) -> str:
    raw = (_PREVIOUS if backward else _NEXT) + keys.write(key)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(keys: Keys, cursor: str) -> tuple[Any, bool] | None:
    """Key and direction; None for what this module never gave for such keys."""
    if len(cursor) > _LONGEST or not cursor.isascii():
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    backward = raw[:1] == _PREVIOUS
    key = keys.read(raw[1:])
    # Bits of the last character may mean nothing: only one spelling of a key is ours.
    if key is None or encode(keys, key, backward) != cursor:
        return None
    return key, backward


def read(query, keys: Keys, errors: list[dict] | None = None) -> Page:
    """`limit` and `cursor` of a query string. What is wrong is added to `errors`; without them it raises InvalidQuery."""
    limit, key, backward = LIMIT, None, False
    found_wrong = [] if errors is None else errors
    if "limit" in query:
        written = query["limit"]
        limit = int(written) if written.isascii() and written.isdigit() and len(written) <= 3 else 0
        if not 1 <= limit <= MOST:
            detail = format_lazy(_("limit: expected a whole number from 1 to {most}."), most=MOST)
            found_wrong.append({"parameter": "limit", "detail": detail})
    if "cursor" in query:
        found = decode(keys, query["cursor"])
        if found is None:
            detail = _("cursor: expected one that a Link header of this list, in this order, gave; leave it out to begin anew.")
            found_wrong.append({"parameter": "cursor", "detail": detail})
        else:
            key, backward = found
    if found_wrong and errors is None:
        raise InvalidQuery(found_wrong)
    return Page(limit, key, backward)


def read_whole(query, errors: list[dict]) -> Page:
    """The `limit` of a list that is given as a whole, as a page that has room for it; what is wrong is added to `errors`."""
    limit, written = EVERYTHING, query.get("limit")
    if written is not None:
        limit = int(written) if written.isascii() and written.isdigit() and len(written) < 19 else 0
        if not limit:
            errors.append({"parameter": "limit", "detail": _("limit: expected a whole number from 1 on.")})
    if "cursor" in query:
        errors.append({"parameter": "cursor", "detail": _("cursor: this form of the list is given as a whole, and has none.")})
    return Page(limit)


@dataclass(frozen=True, slots=True)
class Slice:
    """A page in the list's order: its rows as JSON, and the keys from which `prev` and `next` lead on, if they do."""

    texts: list[str]
    newer: Any
    older: Any


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


def link(request, keys: Keys, page: Slice) -> str | None:
    """The Link header: `next` begins after the page's last row, `prev` ends before its first."""
    if page.newer is None and page.older is None:
        return None
    given = [(name, value) for name, values in request.GET.lists() if name != "cursor" for value in values]
    start = f"{origin(request)}{request.path}?"
    links = []
    for relation, key in (("next", page.older), ("prev", page.newer)):
        if key is not None:
            query = urlencode([*given, ("cursor", encode(keys, key, backward=relation == "prev"))])
            links.append(f'<{start}{query}>; rel="{relation}"')
    return ", ".join(links)
