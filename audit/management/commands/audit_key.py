"""`manage.py audit_key`: makes the key that signs the log's checkpoints, and shows the one that checks them."""

from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from audit import key_file
from audit.checkpoint import key_for
from audit.signed_note import MalformedKey
from taskpulse.installation import SIGNING_KEY


class Command(BaseCommand):
    help = (
        "Make a signing key in FILE (mode 600, never overwritten; give it to the relay role as AUDIT_SIGNING_KEY_FILE) and print "
        "its verifier key, which is public; with --show only print that of the key in FILE, or of the key in use."
    )
    # It needs no database.
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
        parser.add_argument("--show", action="store_true", help="print the verifier key alone: NAME+ID+KEY")
        parser.add_argument(
            "--origin", metavar="NAME", help="the log's name (AUDIT_LOG_ORIGIN unless given), or a successor's to show"
        )

    def handle(self, *, file, show, origin, **_):
        try:
            key = self._known(file, origin) if show else self._made(file, origin or settings.AUDIT_LOG_ORIGIN)
        except FileExistsError:
            raise CommandError(f"{file} is there already; a key is never overwritten") from None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        except MalformedKey as error:
            raise CommandError(str(error)) from None
        self.stdout.write(str(key.verifier))

    def _made(self, file, origin):
        if file is None:
            raise CommandError("name the FILE to make, or ask for --show")
        return key_file.make(file, origin)

    def _known(self, file, origin):
        own = settings.TASKPULSE_HOME / SIGNING_KEY
        if file is None and settings.AUDIT_SIGNING_KEY is not None:
            key = settings.AUDIT_SIGNING_KEY
        elif file is None and not own.exists():
            raise CommandError(f"there is no key: AUDIT_SIGNING_KEY is not set, and {own} does not exist")
        else:
            key = key_file.read(file or own)
        shown = key_for(key, origin or key.name)
        if shown is None:
            raise CommandError(f"the key is that of {key.name!r} and its successors, whose names begin with '{key.name}/'")
        return shown
