"""Arrays of UUIDs and of byte strings in PostgreSQL's binary form (array_recv): psycopg's own dumper of lists costs many
times as much, and a literal has to be parsed by the server."""

import struct
from collections.abc import Iterable

from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

_UUID, _BYTEA = types["uuid"], types["bytea"]


class UuidArray(bytes):
    """A parameter of type uuid[]."""

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> "UuidArray":
        """Each key is the 16 bytes of a UUID."""
        return cls(_array(_UUID.oid, list(keys)))


class ByteaArray(bytes):
    """A parameter of type bytea[]."""

    @classmethod
    def of(cls, values: Iterable[bytes]) -> "ByteaArray":
        return cls(_array(_BYTEA.oid, list(values)))


def _array(element: int, values: list[bytes]) -> bytes:
    """One dimension without NULL, its first subscript 1; each element with its length before it."""
    if not values:
        return struct.pack("!iiI", 0, 0, element)
    head = struct.pack("!iiIii", 1, 0, element, len(values), 1)
    return head + b"".join([len(value).to_bytes(4, "big") + value for value in values])


class _UuidArrayDumper(Dumper):
    format, oid = Format.BINARY, _UUID.array_oid

    def dump(self, obj: UuidArray) -> bytes:
        return obj


class _ByteaArrayDumper(_UuidArrayDumper):
    oid = _BYTEA.array_oid


def allow(cursor) -> None:
    """Lets this cursor of Django take such arrays."""
    cursor.cursor.adapters.register_dumper(UuidArray, _UuidArrayDumper)
    cursor.cursor.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
