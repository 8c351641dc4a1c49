"""`manage.py export_audit`: entries of the log with their proofs, for whoever checks them elsewhere."""

import os
import sys
from argparse import ArgumentTypeError

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from audit.coverage import CannotProve
from audit.export import Selection, bundle
from audit.management.commands.verify_audit import positive
from tasks.api.validation import Wrong, due_at, task_id

COULD_NOT_EXPORT = 2
# What says enough by its message.
_FAULTS = (CannotProve, Error, OSError)


class Command(BaseCommand):
    help = (
        "Write entries of the audit log to the standard output as JSON Lines, each with the proof that it is in the log of the "
        "newest checkpoint; deploy/verify/taskpulse_verify.py checks them on a machine that has never seen the service."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--task", type=_task, metavar="ID", help="of this task, and what belongs to it")
        parser.add_argument("--actor", metavar="ID", help="by this actor, as entries show the id")
        parser.add_argument("--since", type=_time, metavar="TIME", help="changed then or later (2026-01-15T10:30:00Z)")
        parser.add_argument("--until", type=_time, metavar="TIME", help="changed before")
        parser.add_argument(
            "--from", dest="from_seq", type=positive, default=1, metavar="SEQ", help="from this entry on, to go on with a bundle"
        )

    def handle(self, *, task, actor, since, until, from_seq, **options):
        out = sys.stdout.buffer
        try:
            for line in bundle(Selection(task, actor, since, until, from_seq)):
                out.write(line)
            out.flush()
        except BrokenPipeError:
            # Whoever reads has enough. The interpreter flushes at its end, which would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            said = f"{'' if isinstance(error, _FAULTS) else f'{type(error).__name__}: '}{error}"
            raise CommandError(f"the bundle is incomplete: {said}", returncode=COULD_NOT_EXPORT) from error


def _task(text: str):
    found = task_id(text)
    if found is None:
        raise ArgumentTypeError(f"expected the id of a task, got {text!r}")
    return found


def _time(text: str):
    try:
        return due_at(text)
    except Wrong:
        raise ArgumentTypeError(f"expected a time with its zone, as 2026-01-15T10:30:00Z, got {text!r}") from None
