"""C2SP signed-note (c2sp.org/signed-note): text with Ed25519 signatures, and the keys that make and check them.

Two kinds of signature: plain Ed25519 (type 0x01, RFC 8032), which a log makes, and the timestamped cosignature of a
witness (type 0x04, c2sp.org/tlog-cosignature).
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PLAIN, COSIGNATURE = 0x01, 0x04
# A verifier takes at least 16 signatures (signed-note, "Format").
MOST_SIGNATURES = 100
MOST_BYTES = 1_000_000
# The time of a cosignature (tlog-cosignature, "Format").
MOST_SECONDS = 2**63 - 1
_KEY_BYTES = 32
_ID_BYTES = 4
_PRIVATE = "PRIVATE+KEY+"


class MalformedNote(ValueError):
    """Not a signed note."""


class MalformedKey(ValueError):
    """Not a key of the form that was expected. The message never shows the key."""


class Unverified(ValueError):
    """No signature by a known key, or a wrong one by a known key: the text must be ignored."""


class UnknownKey(Unverified):
    """No signature by a known key at all: that says nothing of those that there are."""


def is_key_name(name: str) -> bool:
    """Not empty, without spaces (of all Unicode), control characters and `+`."""
    return bool(name) and "+" not in name and not any(character.isspace() or character < " " for character in name)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name and id (4 bytes), and what the key made of the text."""

    name: str
    key_id: bytes
    value: bytes = field(repr=False)

    def line(self) -> str:
        return f"— {self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"

    @classmethod
    def parse(cls, line: str) -> "Signature":
        """`line` without its newline. Raises MalformedNote."""
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        raw = decode_base64(encoded)
        if dash != "—" or not is_key_name(name) or raw is None or len(raw) <= _ID_BYTES:
            raise MalformedNote("a signature line is not `— NAME BASE64`")
        return cls(name, raw[:_ID_BYTES], raw[_ID_BYTES:])

    @property
    def timestamp(self) -> int | None:
        """When a witness says that it cosigned, in seconds since the epoch; only to be read of a cosignature."""
        return int.from_bytes(self.value[:8], "big") if len(self.value) == 72 else None


@dataclass(frozen=True, slots=True)
class Note:
    """`text` ends in a newline. Whether a signature holds is not known before `verified`."""

    text: str
    signatures: tuple[Signature, ...]

    def __bytes__(self) -> bytes:
        return f"{self.text}\n{''.join(signature.line() for signature in self.signatures)}".encode()

    @classmethod
    def parse(cls, raw: bytes) -> "Note":
        """Raises MalformedNote. An unverified text must not be acted upon."""
        if len(raw) > MOST_BYTES:
            raise MalformedNote(f"more than {MOST_BYTES:,} bytes")
        try:
            whole = bytes(raw).decode()
        except UnicodeDecodeError:
            raise MalformedNote("not UTF-8") from None
        if any(character < " " and character != "\n" for character in whole):
            raise MalformedNote("a control character")
        head, separator, signatures = whole.rpartition("\n\n")
        if not separator or not signatures.endswith("\n"):
            raise MalformedNote("no blank line with signature lines after it")
        lines = signatures.removesuffix("\n").split("\n")
        if len(lines) > MOST_SIGNATURES:
            raise MalformedNote(f"more than {MOST_SIGNATURES} signatures")
        return cls(head + "\n", tuple(Signature.parse(line) for line in lines))

    def verified(self, keys: Iterable["VerifierKey"]) -> tuple[Signature, ...]:
        """The signatures by `keys`, each once. Signatures by other keys are ignored.

        Raises Unverified when there is none, or when one that bears a known key's name and id does not hold.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[tuple[str, bytes], Signature] = {}
        for signature in self.signatures:
            key = known.get((signature.name, signature.key_id))
            if key is None:
                continue
            key.verify(self.text, signature.value)
            found.setdefault((signature.name, signature.key_id), signature)
        if not found:
            raise UnknownKey("no signature by a known key")
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as people pass it on: `NAME+ID+BASE64`, with the id in 8 hexadecimal digits."""

    name: str
    algorithm: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Raises MalformedKey, also where the id is not that of the key."""
        name, _, rest = text.strip().partition("+")
        written_id, _, encoded = rest.partition("+")
        raw = decode_base64(encoded)
        if not is_key_name(name) or raw is None or len(raw) != 1 + _KEY_BYTES or raw[0] not in (PLAIN, COSIGNATURE):
            raise MalformedKey("expected a verifier key NAME+ID+BASE64 of Ed25519")
        key = cls(name, raw[0], raw[1:])
        if key.key_id.hex() != written_id:
            raise MalformedKey(f"the id of the verifier key of {name!r} is not that of its key")
        return key

    def named(self, name: str) -> "VerifierKey":
        """The same public key under another name."""
        return replace(self, name=name)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.algorithm]) + self.public).decode()}"

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public).digest()[:_ID_BYTES]

    def verify(self, text: str, value: bytes) -> None:
        """Raises Unverified unless `value` is this key's signature of `text`."""
        message, signature = text.encode(), value
        if self.algorithm == COSIGNATURE:
            at = int.from_bytes(value[:8], "big")
            if at > MOST_SECONDS:
                raise Unverified(f"the cosignature by {self.name} bears a time beyond 2^63 - 1")
            message, signature = cosigned_message(text, at), value[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise Unverified(f"the signature by {self.name}+{self.key_id.hex()} does not hold") from None


class SigningKey:
    """A secret key; its text form is the one of Go's sumdb/note: `PRIVATE+KEY+NAME+ID+BASE64`. It is never shown."""

    __slots__ = ("_key", "_seed", "verifier")

    def __init__(self, name: str, seed: bytes, algorithm: int = PLAIN):
        if not is_key_name(name):
            raise MalformedKey(f"a key's name has no space, no control character and no `+`; got {name!r}")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = VerifierKey(name, algorithm, self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str, algorithm: int = PLAIN) -> "SigningKey":
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw(), algorithm)

    @classmethod
    def parse(cls, text: str) -> "SigningKey":
        """Raises MalformedKey, which tells nothing of the secret."""
        prefix, _, rest = text.strip().partition(_PRIVATE)
        name, _, rest = rest.partition("+")
        written_id, _, encoded = rest.partition("+")
        raw = decode_base64(encoded)
        wrong_bytes = raw is None or len(raw) != 1 + _KEY_BYTES or raw[0] not in (PLAIN, COSIGNATURE)
        if prefix or not is_key_name(name) or wrong_bytes:
            raise MalformedKey("expected a signing key PRIVATE+KEY+NAME+ID+BASE64 of Ed25519")
        key = cls(name, raw[1:], raw[0])
        if key.verifier.key_id.hex() != written_id:
            raise MalformedKey(f"the id of the signing key of {name!r} is not that of its key")
        return key

    @property
    def name(self) -> str:
        return self.verifier.name

    def named(self, name: str) -> "SigningKey":
        """The same secret under another name: another key to whoever verifies, since a key's id depends on its name."""
        return SigningKey(name, self._seed, self.verifier.algorithm)

    def secret(self) -> str:
        """The text form, to be kept in a file of mode 600."""
        encoded = base64.b64encode(bytes([self.verifier.algorithm]) + self._seed).decode()
        return f"{_PRIVATE}{self.verifier.name}+{self.verifier.key_id.hex()}+{encoded}"

    def sign(self, text: str, at: int | None = None) -> Signature:
        """The signature of a note's text. `at`: the time of a cosignature in seconds since the epoch, else now.

        Raises MalformedNote for what can be no note's text.
        """
        if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
            raise MalformedNote("a note's text ends in a newline and has no other control character")
        if self.verifier.algorithm == PLAIN:
            value = self._key.sign(text.encode())
        else:
            at = int(time.time()) if at is None else at
            value = at.to_bytes(8, "big") + self._key.sign(cosigned_message(text, at))
        return Signature(self.verifier.name, self.verifier.key_id, value)


def cosigned_message(text: str, timestamp: int) -> bytes:
    """What a witness signs of a checkpoint's text (tlog-cosignature, "Ed25519 signed message")."""
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def decode_base64(text: str) -> bytes | None:
    """RFC 4648 §4, in its one canonical spelling; None for anything else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None
