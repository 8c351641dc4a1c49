"""C2SP tlog-proof (c2sp.org/tlog-proof): an entry's inclusion in a checkpoint as one text, checked offline.

The extra data of ours is the leaf record (docs/leaf-record.md), so that the text alone tells what was proved. It is not
authenticated by itself: its leaf hash is what the proof leads from.
"""

import base64
import re
from dataclasses import dataclass

from audit.merkle import HASH_SIZE
from audit.signed_note import decode_base64

HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)


class MalformedProof(ValueError):
    """Not a tlog-proof."""


@dataclass(frozen=True, slots=True)
class TlogProof:
    """`index` is that of the leaf, from 0; `path` an inclusion proof; `checkpoint` a signed note, byte for byte."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __bytes__(self) -> bytes:
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(value).decode() for value in self.path]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint

    @classmethod
    def parse(cls, raw: bytes) -> "TlogProof":
        """Raises MalformedProof; the checkpoint within is not looked at."""
        head, separator, checkpoint = bytes(raw).partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise MalformedProof("a proof's lines are ASCII") from None
        if not separator or lines.pop(0) != HEADER:
            raise MalformedProof(f"expected `{HEADER}`, lines, an empty line and a checkpoint")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "))
            if extra is None:
                raise MalformedProof("the extra data are no base64")
        index = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if index is None:
            raise MalformedProof("expected `index N`")
        path = tuple(decode_base64(line) for line in lines)
        if any(value is None or len(value) != HASH_SIZE for value in path):
            raise MalformedProof(f"a line of the inclusion proof is no hash of {HASH_SIZE} bytes in base64")
        return cls(int(index[1]), path, checkpoint, extra)
