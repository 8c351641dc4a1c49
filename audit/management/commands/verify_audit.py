"""`manage.py verify_audit`: is the log what was recorded?"""

import json
import os
import sys
import time
import traceback
from argparse import ArgumentTypeError
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path

import psycopg
from confluent_kafka import KafkaException
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from audit import key_file
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.signed_note import MalformedKey, MalformedNote, Unverified, VerifierKey
from audit.verification.report import CannotCheck, Report, in_words
from audit.verification.verifier import Options, Verifier
from taskpulse.installation import SIGNING_KEY

SOUND, TAMPERED, COULD_NOT_CHECK, LOST = 0, 1, 2, 3
# What says enough by its message; psycopg's own come from the checks that know nothing of Django.
_FAULTS = (CannotCheck, Error, psycopg.Error, KafkaException, OSError, BrokenProcessPool)


class Command(BaseCommand):
    help = (
        "Verify the audit log: every digest, leaf, tree, checkpoint and signature, the versions of each task, and each live row "
        "against its last event. It only reads. Exit codes: 0 sound, 1 tampered, 2 could not check, 3 sound but for a loss that is "
        "on record."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--key", action="append", default=[], metavar="KEY", help="a verifier key, or a file that holds it")
        parser.add_argument(
            "--checkpoint", action="append", default=[], type=Path, metavar="FILE", help="one that you kept yourself"
        )
        parser.add_argument("--no-topic", action="store_true", help="do not ask the broker for the checkpoints on the topic")
        parser.add_argument(
            "--from", dest="from_seq", type=positive, default=1, metavar="SEQ", help="recompute entries from here on"
        )
        parser.add_argument("--sample", type=_share, default=1.0, metavar="PERCENT", help="recompute so many, chosen at random")
        parser.add_argument("--jobs", type=positive, default=os.cpu_count(), metavar="N", help="processes (default: one a core)")
        parser.add_argument(
            "--known-loss", action="append", default=[], type=positive, metavar="SEQ", help="a loss that you know: by the entry"
            " that accounts for it",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="the report as one JSON document")

    def handle(self, *, key, checkpoint, no_topic, from_seq, sample, jobs, known_loss, **options):
        try:
            keys = keys_at_hand(key)
            held = [(open_held(path, keys), str(path)) for path in checkpoint]
            topic = () if no_topic else CheckpointTopic().all(keys)
            progress = Progress(self.stderr) if sys.stderr.isatty() and not options["json"] else lambda *_: None
            report, document, words = self.look(keys, chain(held, topic), Options(jobs, from_seq, sample, progress), **options)
            self.stdout.write(json.dumps(document, indent=1) if options["json"] else words)
            self.stdout.flush()
        except _FAULTS as error:
            raise CommandError(f"the log could not be checked: {error}", returncode=COULD_NOT_CHECK) from None
        except Exception as error:
            # Python itself would end with 1, which is a verdict here.
            self.stderr.write(traceback.format_exc())
            said = f"the log could not be checked: {type(error).__name__}: {error}"
            raise CommandError(said, returncode=COULD_NOT_CHECK) from None
        if report.tampered:
            sys.exit(TAMPERED)
        if any(loss.accounted_by not in known_loss for loss in report.losses):
            sys.exit(LOST)

    def look(self, keys, held, how: Options, **_) -> tuple[Report, dict, str]:
        """What came of it: the report, and what is printed of it for programs and for people."""
        report = Verifier(keys, held, how).run()
        return report, report.as_json(), in_words(report)


def keys_at_hand(given: list[str]) -> list[VerifierKey]:
    """Those given, each as itself or a file that holds it; else those of the signing keys at hand."""
    try:
        if given:
            return [VerifierKey.parse(_text(item)) for item in given]
        own = settings.TASKPULSE_HOME / SIGNING_KEY
        keys = [settings.AUDIT_SIGNING_KEY, settings.AUDIT_PREVIOUS_SIGNING_KEY]
        if keys == [None, None] and os.access(own, os.R_OK):
            keys = [key_file.read(own)]
    except MalformedKey as error:
        raise CannotCheck(f"--key: {error}") from None
    return [key.verifier for key in keys if key is not None]


def _text(item: str) -> str:
    path = Path(item)
    return path.read_text() if len(item) < 255 and path.is_file() else item


def open_held(path: Path, keys: list[VerifierKey]) -> Checkpoint:
    """A checkpoint that somebody kept."""
    try:
        return open_checkpoint(path.read_bytes(), keys)[0]
    except (MalformedNote, Unverified) as error:
        raise CannotCheck(f"--checkpoint {path}: {error}") from None


def positive(text: str) -> int:
    """For argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise ArgumentTypeError(f"expected a percentage above 0 and up to 100, got {text!r}")
    return percent / 100


class Progress:
    """One line on a terminal, renewed a few times a second."""

    def __init__(self, stream):
        self._stream, self._next = stream, 0.0

    def __call__(self, what: str, done: int, of: int | None) -> None:
        now = time.monotonic()
        if now >= self._next or done == of:
            self._next = now + 0.3
            self._stream.write(f"\r{what}: {done:,}{f' of {of:,}' if of else ''}  ", ending="\n" if done == of else "")
            self._stream.flush()
