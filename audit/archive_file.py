"""The name of an archive's file: it has one when the archive is committed, and not before.

Until then it stands beside its place as `.NAME.part`. Between the commit and the renaming a process can die, and of a commit
whose connection broke nobody knows whether it came about: so a part is removed only where it is known to be of nothing, and
the next call names what was left.
"""

import hashlib
import os
from pathlib import Path

from django.db import Error, connection

from audit.models import Archive


def part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def name(path: Path) -> None:
    """Gives the part its name, on the disk too. Raises OSError."""
    part_of(path).rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_what_was_left(directory: Path) -> Path | None:
    """The file of the newest archive, if its part is here still and is what was noted. Returns what was named."""
    newest = Archive.objects.order_by("first_seq").last()
    path = newest and directory / newest.file
    if path is None or path.exists() or not part_of(path).exists() or sha256(part_of(path)) != bytes(newest.sha256):
        return None
    name(path)
    return path


def remove_unless_noted(path: Path, first_seq: int) -> None:
    """After a failure: the part goes, unless the archive was committed all the same, or nobody can say."""
    try:
        connection.close_if_unusable_or_obsolete()
        noted = Archive.objects.filter(first_seq=first_seq).exists()
    except Error:
        noted = True
    if not noted:
        part_of(path).unlink(missing_ok=True)


def sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
