"""C2SP tlog-witness (c2sp.org/tlog-witness), the log's side: what is sent to a witness and what comes back, as bytes."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from audit.signed_note import COSIGNATURE, MalformedKey, MalformedNote, Note, Signature, VerifierKey

_URL = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?", re.ASCII)
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n?")
# "The client MUST NOT send more than 63 consistency proof lines": a log's numbers are bigints, so that no proof has more.
MOST_HASHES = 63


@dataclass(frozen=True, slots=True)
class Witness:
    """`key` verifies its cosignatures, `url` is its submission prefix, without a slash at the end."""

    key: VerifierKey
    url: str

    @classmethod
    def parse(cls, text: str) -> "Witness":
        """`NAME+ID+KEY URL`. Raises ValueError; a key that signs as logs do, not as witnesses do, is none."""
        written, _, url = text.strip().partition(" ")
        key, url = VerifierKey.parse(written), url.strip().rstrip("/")
        if key.algorithm != COSIGNATURE:
            raise MalformedKey(f"the key of {key.name!r} is no witness's (type 0x04)")
        if not _URL.fullmatch(url):
            raise ValueError("expected the witness's URL after its key, without a user, a query or a fragment")
        return cls(key, url)

    def __str__(self) -> str:
        return f"{self.key} {self.url}"


def submission(old: int, path: Sequence[bytes], note: bytes) -> bytes:
    """The body of add-checkpoint: a checkpoint, and the proof that it contains the first `old` entries."""
    if len(path) > MOST_HASHES:
        raise ValueError(f"a consistency proof of {len(path)} hashes, at most {MOST_HASHES} may be sent")
    lines = [f"old {old}", *(base64.b64encode(value).decode() for value in path)]
    return "\n".join([*lines, "", ""]).encode() + note


def told_size(answer: bytes) -> int | None:
    """The size in the answer to a conflict: that of the witness's latest checkpoint; None if it tells none."""
    found = _SIZE.fullmatch(answer)
    return None if found is None else int(found[1])


def cosignature(note: bytes, answer: bytes, key: VerifierKey) -> Signature:
    """The cosignature of a checkpoint by `key` among the lines that a witness answered. Lines by other keys are ignored.

    Raises MalformedNote for what are no signature lines, and Unverified where none by `key` holds.
    """
    ours, both = Note.parse(note), Note.parse(note + answer)
    if both.text != ours.text:
        # A blank line in the answer: the signatures below it would be of another text.
        raise MalformedNote("more than signature lines")
    (found,) = both.verified([key])
    return found
