"""Conditional requests (RFC 9110 §13): the entity tag of a task is its version in double quotes and, after a hyphen, a checksum
of the names of people that it shows.

Names are those of the present: a strong tag has to change with all that the body shows (§8.8.1), and a person's other name
is no version of the task. If-None-Match compares the whole tag, If-Match the version, which is what a change would overwrite:
it takes the version alone, too.
"""

import re
import zlib
from collections.abc import Callable

from django.conf import settings
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import Problem

_LIST = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*(?:(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*)?)*')
_TAG = re.compile(r'(W/)?("[^"]*")')


_VERSION = re.compile(r'"([1-9][0-9]*)(?:-[0-9a-f]{1,8})?"')


def etag(version: int, *names: str | None) -> str:
    """`names`: those that the body shows, None for nobody. `members.tag` is the same in SQL."""
    if not names:
        return f'"{version}"'
    checksum = zlib.crc32("\n".join(name or "" for name in names).encode())
    return f'"{version}-{checksum:x}"'


def _names_version(tag: str, version: int) -> bool:
    found = _VERSION.fullmatch(tag)
    return found is not None and found[1] == str(version)


def _tags(name: str, header: str) -> list[tuple[bool, str]]:
    if not _LIST.fullmatch(header):
        detail = _('{name}: expected "<version>" in double quotes as the ETag gives it, several by commas, or *')
        raise Problem(400, format_lazy(detail, name=name))
    return [(bool(weak), tag) for weak, tag in _TAG.findall(header)]


def are_asked(request) -> bool:
    """Whether a change depends on what is there (`check`)."""
    return settings.REQUIRE_IF_MATCH or not request.META.keys().isdisjoint(("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"))


def known_tags(request) -> list[str] | None:
    """The entity tags of If-None-Match, for weak comparison: weak ones as the strong ones. `["*"]` for any, None without it."""
    header = request.META.get("HTTP_IF_NONE_MATCH")
    if header is None:
        return None
    return ["*"] if header.strip() == "*" else [tag for _, tag in _tags("If-None-Match", header)]


def check(request, version: int, tag: Callable[[], str], what: str = "task") -> None:
    """If-Match and If-None-Match of an unsafe request on a task, or `what` else, that is there; `tag` gives its entity tag.
    Raises Problem: 412, and 428 (RFC 6585 §3) without If-Match where TASKPULSE_REQUIRE_IF_MATCH demands it.

    If-Match compares strongly: a weak tag never matches.
    """
    header = request.META.get("HTTP_IF_MATCH")
    if header is None and settings.REQUIRE_IF_MATCH:
        detail = _('If-Match is missing: send the ETag that you read ("<version>"), so that nobody\'s change is lost; * for any.')
        raise Problem(428, detail)
    if header is not None and header.strip() != "*":
        tags = _tags("If-Match", header)
        if not any(_names_version(found, version) for weak, found in tags if not weak):
            told = _("The {what} is at version {version} now, not at the one that If-Match names; read it again.")
            detail = format_lazy(told, what=what, version=version)
            raise Problem(412, detail, headers={"ETag": tag()})
    known = known_tags(request)
    if known is not None and ("*" in known or any(_names_version(found, version) for found in known)):
        detail = format_lazy(_("If-None-Match excludes the present version {version}."), version=version)
        raise Problem(412, detail, headers={"ETag": tag()})
