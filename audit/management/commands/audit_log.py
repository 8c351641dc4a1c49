"""`manage.py audit_log new`: ends a log that can be signed no more, and opens its successor."""

import time
from pathlib import Path

from confluent_kafka import KafkaException
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from audit import checkpoint_store
from audit.checkpoint import Checkpoint, key_for
from audit.checkpoint_topic import CheckpointTopic
from audit.checkpointer import LOCK
from audit.management.commands.verify_audit import keys_at_hand, open_held
from audit.successor import CannotOpen, open_successor
from audit.tile_store import MissingTile
from audit.tile_writer import Head, Tampered, read_head
from audit.verification.report import CannotCheck
from tasks import context
from tasks.active_lock import ActiveLock

# Seconds.
PATIENCE = 3.0


class Command(BaseCommand):
    help = (
        "After a restore that lost entries for which checkpoints were signed: end the audit log where it is and open a successor, "
        "whose first entry names what was signed before. Stop the relay first; run it as the owner of the database."
    )

    def add_arguments(self, parser):
        new = parser.add_subparsers(dest="subcommand", required=True, metavar="new").add_parser("new", help=self.help)
        new.add_argument("--reason", required=True, help="why; recorded in the first entry")
        new.add_argument("--origin", metavar="NAME", help="the successor's name (default: the first log's, `/`, its first seq)")
        new.add_argument("--key", action="append", default=[], metavar="KEY", help="a verifier key, or a file that holds it")
        new.add_argument(
            "--checkpoint", action="append", default=[], type=Path, metavar="FILE", help="one that you kept, if the topic is lost"
        )

    def handle(self, *, reason, origin, key, checkpoint, **_):
        lock = ActiveLock(LOCK)
        try:
            self._acquire(lock)
            given = keys_at_hand(key)
            if origin and not any(key_for(one, origin) for one in given):
                raise CommandError("--origin: expected the first log's name, `/` and more: its key signs the successor too")
            present = read_head()
            promised = self._promised(present, given, checkpoint)
            with context.use(context.Context(reason=reason)):
                opened = open_successor(origin, promised)
        except (CannotOpen, CannotCheck, Tampered, MissingTile, Error, KafkaException, OSError) as error:
            raise CommandError(f"no log was opened: {error}") from None
        finally:
            lock.release()
        ended = opened.log - present.log
        self.stdout.write(f"{present.origin} ended with {ended} entries; {opened.origin} begins with entry {opened.log}")
        for one in given:
            if (named := key_for(one, opened.origin)) is not None:
                self.stdout.write(f"its verifier key: {named}")

    def _acquire(self, lock: ActiveLock) -> None:
        """PostgreSQL needs a moment to notice that the relay's connection is gone."""
        end = time.monotonic() + PATIENCE
        while not lock.acquire():
            if time.monotonic() > end:
                raise CommandError("a relay is running and signs checkpoints: stop it first")
            time.sleep(0.05)

    def _promised(self, present: Head | None, given, files: list[Path]) -> Checkpoint | None:
        """The newest checkpoint of the log that is held outside the database."""
        keys = [of for one in given if present and (of := key_for(one, present.origin))]
        if not keys:
            raise CommandError("no verifier key of the log: give it by --key (`manage.py audit_key --show` prints it)")
        held = [open_held(path, keys) for path in files] + [CheckpointTopic().newest(present.origin, checkpoint_store.ring(given))]
        found = [checkpoint for checkpoint in held if checkpoint is not None]
        if not found:
            self.stderr.write("no checkpoint is known outside the database: how many entries were lost cannot be said")
        return max(found, key=lambda checkpoint: checkpoint.size, default=None)
