"""Raw bytes for people's eyes."""

import codecs


def printable(raw: bytes, most: int | None = None) -> str:
    """Text where the bytes are UTF-8, else hexadecimal; what does not print is escaped, so that nothing hides, reorders or
    steers a terminal. `most` bytes are shown, all if it is None."""
    start = raw if most is None else raw[:most]
    try:
        # The incremental decoder leaves out a last character that the cut has halved.
        text = codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) == len(raw))
        text = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    except UnicodeDecodeError:
        text = "hex: " + start.hex(" ")
    rest = len(raw) - len(start)
    return text + (f"\n… {rest:,} more bytes" if rest else "")
