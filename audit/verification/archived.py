"""What was archived: entries that are no longer here, whose leaves stay in the tiles and so in the tree.

Their files are checked by deploy/verify/taskpulse_verify.py; here they are only named.
"""

from collections.abc import Iterator, Sequence

from audit.models import Archive
from audit.verification.reading import read_only
from audit.verification.report import Finding, Report


def read() -> list[Archive]:
    with read_only():
        return list(Archive.objects.order_by("first_seq"))


def until(archives: Sequence[Archive]) -> int:
    """The last archived entry, 0 if there is none."""
    return archives[-1].last_seq if archives else 0


def check(archives: Sequence[Archive], first: int, last: int) -> Iterator[Finding]:
    """Of a log whose entries are `first` to `last`: archived are its oldest, one file after the other."""
    expected = first
    for archive in archives:
        if archive.first_seq != expected or not archive.first_seq <= archive.last_seq <= last:
            text = f"the archive {archive.file} is not what follows upon entry {expected - 1} of this log"
            yield Finding("head", text, archive.first_seq, archive.last_seq)
            return
        expected = archive.last_seq + 1


def describe(report: Report, archives: Sequence[Archive]) -> None:
    """For a report's `not_proved`."""
    for archive in archives:
        report.not_proved.append(
            f"What entries {archive.first_seq} to {archive.last_seq} say: they are archived, only their leaves are in the tree. "
            f"Check {archive.file} (SHA-256 {bytes(archive.sha256).hex()}) with deploy/verify/taskpulse_verify.py."
        )
