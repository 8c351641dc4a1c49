"""A client of a tiled log (c2sp.org/tlog-tiles) that shares nothing with the service: written from the specifications,
with the standard library and `cryptography`'s Ed25519 alone."""

import base64
import hashlib
import urllib.request

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def tree_hash(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 over leaf hashes, level by level; an odd one out goes up as it is."""
    if not hashes:
        return sha256()
    while len(hashes) > 1:
        pairs = [sha256(b"\1", hashes[at], hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)]
        hashes = pairs + (hashes[-1:] if len(hashes) % 2 else [])
    return hashes[0]


def open_note(raw: bytes, vkey: str) -> list[str]:
    """The lines of a note that the key signed. Raises InvalidSignature or AssertionError."""
    name, _, rest = vkey.partition("+")
    key_id, _, encoded = rest.partition("+")
    key = base64.b64decode(encoded)
    assert key[0] == 1
    assert hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] == key_id
    text, _, signatures = raw.decode().rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, value = line.split(" ")
        signature = base64.b64decode(value)
        if dash == "—" and signer == name and signature[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], text.encode())
            return text.splitlines()
    raise AssertionError("no signature by the key")


class Log:
    """`fetch(path)` gives the bytes at `<prefix>/<path>`."""

    def __init__(self, fetch, vkey: str):
        self.fetch, self.vkey = fetch, vkey

    @classmethod
    def at(cls, prefix: str, vkey: str, **headers: str) -> "Log":
        def fetch(path: str) -> bytes:
            with urllib.request.urlopen(urllib.request.Request(prefix + path, headers=headers), timeout=20) as answer:
                return answer.read()

        return cls(fetch, vkey)

    def check(self) -> tuple[int, list[bytes]]:
        """Every tile and every entry against the signed root. Returns the size and the entries."""
        origin, size, root, *_ = open_note(self.fetch("checkpoint"), self.vkey)
        assert origin == self.vkey.partition("+")[0]
        size = int(size)
        entries = [entry for path, width in tile_paths("entries", size) for entry in unpack(self.fetch(path), width)]
        level, hashes = 0, [sha256(b"\0", entry) for entry in entries]
        assert len(hashes) == size
        assert tree_hash(hashes) == base64.b64decode(root)
        while hashes:
            wanted = b"".join(hashes)
            got = b"".join(self.fetch(path) for path, _ in tile_paths(str(level), len(hashes)))
            assert got == wanted, f"the tiles of level {level}"
            full = len(hashes) // 256 * 256
            hashes = [tree_hash(hashes[at : at + 256]) for at in range(0, full, 256)]
            level += 1
        return size, entries


def tile_paths(level: str, count: int):
    for number in range(-(-count // 256)):
        text = f"{number:03d}" if number < 1000 else f"x{number // 1000:03d}/{number % 1000:03d}"
        width = min(256, count - number * 256)
        yield f"tile/{level}/{text}" + ("" if width == 256 else f".p/{width}"), width


def unpack(raw: bytes, width: int) -> list[bytes]:
    entries = []
    for _ in range(width):
        length = raw[0] << 8 | raw[1]
        entries.append(raw[2 : 2 + length])
        raw = raw[2 + length :]
    assert not raw
    return entries
