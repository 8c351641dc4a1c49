"""`manage.py migrate`: Django's, by one process at a time, and without a queue behind a lock that it waits for."""

import time

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, connections, transaction
from django.db.migrations.executor import MigrationExecutor

from taskpulse.worker import Backoff
from tasks.active_lock import ActiveLock

# Seconds between two tries to become the one that migrates.
POLL = 0.5
# lock_not_available (PostgreSQL documentation, appendix A).
_LOCKED = "55P03"


class LockLost(CommandError):
    """The session that kept others from migrating ended. What was applied by then stays applied."""


class OneTransactionExecutor(MigrationExecutor):
    """A migration and the note that it was applied are committed together. Django commits first one that leaves foreign keys or
    indexes for its end, and notes it then: a session that ends between the two leaves a database in which `migrate` fails for ever,
    since it finds the tables that it makes."""

    def apply_migration(self, state, migration, fake=False, fake_initial=False):
        if not migration.atomic:
            return super().apply_migration(state, migration, fake, fake_initial)
        with transaction.atomic(self.connection.alias):
            return super().apply_migration(state, migration, fake, fake_initial)


# Django's command has no other place to name it.
migrate.MigrationExecutor = OneTransactionExecutor


class Command(migrate.Command):
    """Beside a running version: whoever wants a table while this waits for its lock waits behind it, so that it never waits
    longer than TASKPULSE_MIGRATE_LOCK_TIMEOUT_MS, and tries again later. What was applied by then stays applied.

    A second one waits for the first and then finds nothing to do. Raises CommandError when a lock could not be had for
    TASKPULSE_MIGRATE_PATIENCE_SECONDS.
    """

    def handle(self, *args, **options):
        if options["plan"] or options["check_unapplied"]:
            return super().handle(*args, **options)
        self._connection = connections[options["database"]]
        self._lock = ActiveLock("migrate")
        try:
            self._become_the_one()
            self._try_until_done(args, options)
        finally:
            self._lock.release()

    def _become_the_one(self) -> None:
        if not self._lock.acquire():
            self.stdout.write("another migrate is at work, waiting for it")
            while not self._lock.acquire():
                time.sleep(POLL)

    def _try_until_done(self, args, options) -> None:
        backoff, end = Backoff(1.0, 15.0), time.monotonic() + settings.MIGRATE_PATIENCE_SECONDS
        while True:
            try:
                # A limit of the role's is for requests: to build an index takes its time.
                self._set("statement_timeout", 0)
                super().handle(*args, **options)
                return
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", None) != _LOCKED:
                    raise
            finally:
                self._reset()
            if time.monotonic() > end:
                raise CommandError("a table is in use by others all the time: nothing was lost, run migrate again later")
            pause = backoff.next()
            self.stdout.write(f"a table is in use: nothing of this migration was applied, trying again in {pause:.0f} s")
            time.sleep(pause)

    def migration_progress_callback(self, action, migration=None, fake=False):
        """Django calls it before and after each migration.

        One that is not atomic builds or drops an index CONCURRENTLY: nobody waits behind that, and were it given up while it
        waits for older transactions, an invalid index would stay.
        """
        if action in ("apply_start", "unapply_start"):
            if not self._lock.held():
                raise LockLost("the connection that holds the lock of migrate is gone: run it again")
            self._set("lock_timeout", settings.MIGRATE_LOCK_TIMEOUT_MS if migration.atomic else 0)
        super().migration_progress_callback(action, migration, fake)

    def _set(self, name: str, milliseconds: int) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config(%s, %s, false)", [name, str(milliseconds)])

    def _reset(self) -> None:
        """For what the same process does next."""
        if self._connection.is_usable():
            with self._connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout; RESET statement_timeout")
