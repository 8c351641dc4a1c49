"""C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint): the text of a signed note that states a tree's size and root."""

import base64
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from audit.merkle import HASH_SIZE
from audit.signed_note import (
    PLAIN,
    MalformedKey,
    MalformedNote,
    Note,
    Signature,
    SigningKey,
    UnknownKey,
    VerifierKey,
    decode_base64,
)

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
MOST_LEAVES = 2**63 - 1
Key = TypeVar("Key", SigningKey, VerifierKey)
# The extension line by which the last checkpoint under a key names the next key.
NEXT_KEY = "next-key "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`origin` is the log's name, `size` its number of leaves, `root` their RFC 6962 tree head. `extensions` are lines
    that the log adds: opaque to others, and signed."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def successors(self) -> list[VerifierKey]:
        """The keys to which the log hands over with this checkpoint; only to be asked of a verified one."""
        found = []
        for line in self.extensions:
            if line.startswith(NEXT_KEY):
                with suppress(MalformedKey):
                    found.append(VerifierKey.parse(line.removeprefix(NEXT_KEY)))
        return found

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Raises MalformedNote."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() != "" or not all(lines):
            raise MalformedNote("a checkpoint is three or more lines, none of them empty")
        origin, size, root, *extensions = lines
        if not _SIZE.fullmatch(size) or int(size) > MOST_LEAVES:
            raise MalformedNote("the second line of a checkpoint is its size: decimal digits without leading zeros")
        digest = decode_base64(root)
        if digest is None or len(digest) != HASH_SIZE:
            raise MalformedNote(f"the third line of a checkpoint is its root: {HASH_SIZE} bytes in base64")
        return cls(origin, int(size), digest, tuple(extensions))


def key_for(key: Key, origin: str) -> Key | None:
    """The key of the log `origin`: `key` itself, or for a successor of its log the same secret under the successor's name,
    since a log's key bears its name. None if `key` is another log's."""
    if key.name == origin:
        return key
    return key.named(origin) if origin.startswith(f"{key.name}/") else None


def open_checkpoint(raw: bytes, keys: Iterable[VerifierKey]) -> tuple[Checkpoint, tuple[Signature, ...]]:
    """The checkpoint of a note that one of `keys` signed as the log, and its signatures by `keys` (witnesses' too). A log's
    key counts for the logs that succeeded to it.

    Raises MalformedNote, or Unverified: UnknownKey also where only witnesses signed, or a key of another name than the origin.
    """
    note = Note.parse(raw)
    checkpoint = Checkpoint.parse(note.text)
    keys = [key_for(key, checkpoint.origin) or key if key.algorithm == PLAIN else key for key in keys]
    signatures = note.verified(keys)
    of_log = {(key.name, key.key_id) for key in keys if key.algorithm == PLAIN and key.name == checkpoint.origin}
    if not any((signature.name, signature.key_id) in of_log for signature in signatures):
        raise UnknownKey("no signature by a known key of the log that the checkpoint names")
    return checkpoint, signatures
