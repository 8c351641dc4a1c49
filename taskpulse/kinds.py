"""Kinds of settings: how a value is written, what is expected of it, and what becomes of it.

`parse` raises ValueError for a value that cannot be used. What is shown of that is `expected`, never the exception: it
may quote a secret.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

# libpq's, from none to the strictest (PostgreSQL documentation 32.19).
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Kind:
    """`name` is for the table of settings, `empty` what a setting without value and default becomes."""

    name: str
    expected: str
    parse: Callable[[str], object]
    empty: object = ""


def text(expected: str = "text", pattern: str = r"[^\x00-\x1f\x7f]+", name: str = "text") -> Kind:
    """One line that matches the whole pattern."""
    matches = re.compile(pattern).fullmatch

    def parse(value: str) -> str:
        if not matches(value):
            raise ValueError
        return value

    return Kind(name, expected, parse)


def secrets() -> Kind:
    """A comma-separated list of secrets."""
    return Kind("list of secrets", "a comma-separated list", words().parse, empty=())


def secret(least: int = 1) -> Kind:
    """Any text, several lines too; at least so many characters."""

    def parse(value: str) -> str:
        if len(value) < least or "\0" in value:
            raise ValueError
        return value

    return Kind("secret", f"at least {least} characters" if least > 1 else "text", parse)


def integer(least: int, most: int) -> Kind:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value) or not least <= int(value) <= most:
            raise ValueError
        return int(value)

    return Kind(f"{least:,}–{most:,}", f"a whole number from {least} to {most}", parse, empty=None)


def boolean() -> Kind:
    def parse(value: str) -> bool:
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]

    return Kind("`true`, `false`", "true or false", _value_error(parse), empty=None)


def choice(*values: str) -> Kind:
    """One of these words, in upper or lower case; the result is written as it is here."""
    known = {value.lower(): value for value in values}

    def parse(value: str) -> str:
        return known[value.lower()]

    return Kind(", ".join(f"`{value}`" for value in values), f"one of {', '.join(values)}", _value_error(parse))


def words(item: Kind | None = None) -> Kind:
    """A comma-separated list, each word of the kind `item`."""
    item = item or text()
    expected = "a comma-separated list" + ("" if item.name == "text" else f", each {item.expected}")

    def parse(value: str) -> list:
        return [item.parse(word.strip()) for word in value.split(",") if word.strip()]

    return Kind(f"list of {item.name}" if item.name != "text" else "list", expected, parse, empty=())


def signing_key() -> Kind:
    """A key that `manage.py audit_key` made; the result shows its secret nowhere."""

    def parse(value: str) -> object:
        from audit.signed_note import PLAIN, SigningKey  # one role in four has a key

        key = SigningKey.parse(value)
        if key.verifier.algorithm != PLAIN:
            raise ValueError
        return key

    return Kind("key", "a signing key as `manage.py audit_key` makes it", parse, empty=None)


def network() -> Kind:
    """An address or a network of them; the result is an ipaddress network."""
    return Kind("networks", "an address or a network such as 10.0.0.0/8", ip_network)


def witness() -> Kind:
    """A witness of the log's checkpoints: the key of its cosignatures and where it listens."""

    def parse(value: str) -> object:
        from audit.witness import Witness  # few installations have one

        return Witness.parse(value)

    return Kind("witness", "`NAME+ID+KEY https://HOST/PATH` with a key for cosignatures", parse)


def file(*words: str) -> Kind:
    """A file that can be read now, or one of the words; the result is its path."""

    def parse(value: str) -> str:
        if value in words:
            return value
        with Path(value).open("rb") as opened:
            opened.read(1)
        return value

    others = "".join(f" or `{word}`" for word in words)
    return Kind(f"file{others}", f"the path of a file that this process can read{others}", _value_error(parse))


def directory() -> Kind:
    return Kind("directory", "the path of a directory", str)


def _value_error(parse: Callable[[str], object]) -> Callable[[str], object]:
    def strict(value: str) -> object:
        try:
            return parse(value)
        except (KeyError, OSError):
            raise ValueError from None

    return strict
