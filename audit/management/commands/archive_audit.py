"""`manage.py archive_audit`: moves the oldest partition of the audit log to a file."""

from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from audit import archive
from audit.coverage import CannotProve
from audit.management.commands.verify_audit import keys_at_hand
from audit.verification.report import CannotCheck


class Command(BaseCommand):
    help = (
        "Write the oldest full partition of the audit log to a file in DIRECTORY, check the file, and detach the partition; as the "
        "database's owner. The detached table is left for you to drop. One partition a call."
    )

    def add_arguments(self, parser):
        parser.add_argument("directory", type=Path, metavar="DIRECTORY")
        parser.add_argument(
            "--key", action="append", default=[], metavar="KEY", help="the log's verifier key, or a file that holds it"
        )

    def handle(self, *, directory, key, **_):
        try:
            keys = keys_at_hand(key)
            if not keys:
                raise CannotCheck("no verifier key: give the log's by --key (`manage.py audit_key --show` prints it)")
            span = archive.move(directory, keys, self.stdout.write)
        except (archive.CannotArchive, CannotCheck, CannotProve, Error, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{span.partition} is detached. When the file is kept where it shall be: DROP TABLE {span.partition}")
