"""Files that hold a signing key: one line, mode 600, never overwritten."""

import os
from pathlib import Path

from audit.signed_note import MalformedKey, SigningKey


def make(path: Path, origin: str) -> SigningKey:
    """A new key for the log `origin`, in a file of its own. Raises FileExistsError, OSError, or MalformedKey for the name."""
    key = SigningKey.generate(origin)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(key.secret() + "\n")
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return key


def read(path: Path) -> SigningKey:
    """Raises OSError, or MalformedKey, which tells nothing of what the file holds."""
    try:
        return SigningKey.parse(path.read_text())
    except UnicodeDecodeError:
        raise MalformedKey("expected a signing key PRIVATE+KEY+NAME+ID+BASE64 of Ed25519") from None
