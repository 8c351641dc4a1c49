"""`manage.py up`: everything on this machine, with one command."""

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from taskpulse.up import CannotStart, Up


class Command(BaseCommand):
    help = (
        "Run TaskPulse: web, relay and consumer, and with them PostgreSQL and a broker unless DATABASE_URL (or DB_HOST) and "
        "KAFKA_BOOTSTRAP_SERVERS name others. PORT (8000), BIND_ADDRESS (127.0.0.1) and TASKPULSE_HOME (.taskpulse/) can be set."
    )
    # It runs before there are settings.
    requires_system_checks = []

    def handle(self, **_):
        try:
            Up().run()
        except (CannotStart, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from None
