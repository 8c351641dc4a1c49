"""The Prefer header of a request (RFC 7240)."""

import re

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# A preference with its value; its parameters, which none of ours has, are passed over. A comma in quotes separates nothing.
_PREFERENCE = re.compile(rf'[\s,]*({_NAME})(?:[ \t]*=[ \t]*({_NAME}|{_QUOTED}))?(?:[^,"]|{_QUOTED})*')


def value(header: str, name: str) -> str | None:
    """Of the first preference of this name (§2); empty where it has none, None where it is not there."""
    for match in _PREFERENCE.finditer(header):
        if match[1].lower() == name:
            return (match[2] or "").strip('"')
    return None


def wait_seconds(header: str) -> int:
    """Of `wait` (§4.3); 0 where there is none, and for a value that is no number of seconds, which a server ignores (§2)."""
    seconds = value(header, "wait") or ""
    return int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) <= 9 else 0
