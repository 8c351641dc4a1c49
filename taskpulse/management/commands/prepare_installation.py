"""`manage.py prepare_installation`: what `manage.py up` does before it starts the roles."""

import secrets
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction
from django.db.migrations.exceptions import MigrationSchemaMissing

from audit import key_file
from audit.models import LogHead
from taskpulse.installation import ADMINISTRATOR, CREDENTIALS, SIGNING_KEY, Installation
from taskpulse.management.commands.migrate import LockLost
from taskpulse.worker import DATABASE_FAULTS, Backoff, Stop
from tasks import tokens
from tasks.tokens import ApiToken

# Seconds that a named database may take to answer.
DATABASE_PATIENCE = 30.0
# How often the preparation begins before a database that fails again and again is given up.
TRIES = 6
# PostgreSQL's advisory lock of this key: two machines that start at once do not make two administrators.
PREPARATION_LOCK = 7_238_105


class Command(BaseCommand):
    help = "Migrate, collect static files, and make an administrator, an API token and a signing key, unless there are."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--url", required=True, help="where the web role listens; kept beside the credentials")
        parser.add_argument("--database-roles", action="store_true", help="make the database's roles too")

    def handle(self, *, url, database_roles, **_):
        """All of it can be done again: what a fault of the database interrupts is."""
        self._stop, backoff = Stop().listen(), Backoff(0.2, 2.0)
        while True:
            self._wait_for_database()
            try:
                self._prepare(url, database_roles)
                return
            except (*DATABASE_FAULTS, MigrationSchemaMissing, LockLost) as error:
                if self._stop.requested or backoff.failures == TRIES - 1:
                    raise CommandError(f"the database fails: {_one_line(error)}") from error
                self.stderr.write(f"the database failed, trying again: {_one_line(error)}")
            connection.close()
            self._stop.sleep(backoff.next())

    def _prepare(self, url: str, database_roles: bool) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [PREPARATION_LOCK])
            call_command("migrate", verbosity=0, interactive=False)
            if database_roles:
                call_command("database_roles", verbosity=0)
            Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
            call_command("collectstatic", verbosity=0, interactive=False)
            self._administrator(Installation(settings.TASKPULSE_HOME), url)
            self._signing_key(settings.TASKPULSE_HOME / SIGNING_KEY)
            cursor.execute("SELECT pg_advisory_unlock(%s)", [PREPARATION_LOCK])

    def _wait_for_database(self) -> None:
        backoff, waited = Backoff(0.2, 2.0), 0.0
        while True:
            try:
                connection.connect()  # anew: a fault within a transaction leaves Django with one that it takes for open
                return
            except DATABASE_FAULTS as error:
                reason = _one_line(error)
            if self._stop.requested or waited > DATABASE_PATIENCE:
                raise CommandError(f"the database cannot be reached: {reason}")
            if not backoff.failures:
                self.stderr.write(f"waiting for the database: {reason}")
            pause = backoff.next()
            waited += pause
            self._stop.sleep(pause)

    def _signing_key(self, path: Path) -> None:
        """A key for the audit log's checkpoints, unless there is one."""
        if settings.AUDIT_SIGNING_KEY is None and not path.exists():
            key_file.make(path, LogHead.objects.latest("first_seq").origin)

    def _administrator(self, installation: Installation, url: str) -> None:
        try:
            known = installation.credentials()
        except ValueError as error:
            raise CommandError(str(error)) from None
        if known and ApiToken.objects.filter(digest=tokens.digest(str(known.get("token")))).exists():
            if known.get("url") != url:
                installation.write(CREDENTIALS, known | {"url": url})
            return
        people = get_user_model().objects
        existing = people.filter(is_superuser=True, is_active=True).order_by("pk").first()
        taken = existing or people.filter(username=ADMINISTRATOR).first()
        if taken:
            self.stdout.write(
                f"this database has the user {taken.get_username()!r} already, whose credentials {installation.home / CREDENTIALS} "
                f"does not hold: `manage.py changepassword {taken.get_username()}` sets a new password"
            )
            return
        if known:
            installation.write(f"{CREDENTIALS}.previous", known)
            self.stdout.write(f"{CREDENTIALS} belonged to another database: kept as {CREDENTIALS}.previous")
        password = secrets.token_urlsafe(15)
        with transaction.atomic():
            user = people.create_superuser(ADMINISTRATOR, password=password)
            _, token = ApiToken.issue(user, "first token, made by manage.py up")
            # Before the commit: a crash in between leaves no administrator, and the next start makes both anew.
            installation.write(CREDENTIALS, {"url": url, "username": ADMINISTRATOR, "password": password, "token": token})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
