"""The Prefer header of a request (RFC 7240), as far as it says how long to wait."""

import re

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# A preference with its value; its parameters, which none of ours has, are passed over. A comma in quotes separates nothing.
_PREFERENCE = re.compile(rf'[\s,]*({_NAME})(?:[ \t]*=[ \t]*({_NAME}|{_QUOTED}))?(?:[^,"]|{_QUOTED})*')


def wait_seconds(header: str) -> int:
    """Of the first `wait` (§4.3); 0 where there is none, and for a value that is no number of seconds, which a server
    ignores (§2)."""
    for match in _PREFERENCE.finditer(header):
        if match[1].lower() == "wait":
            value = (match[2] or "").strip('"')
            return int(value) if value.isascii() and value.isdigit() and len(value) <= 9 else 0
    return 0
