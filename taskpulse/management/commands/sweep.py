"""`manage.py sweep`: throws away what has had its time. To be run once a day, by cron or the like."""

from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from taskpulse import retention

MOST_DAYS = 36_500


class Command(BaseCommand):
    help = (
        "Delete expired sessions, API tokens that expired some time ago, and old dead letters, each of which leaves an event in "
        "the audit log. The web role's rights suffice. Run it once a day; it may be repeated and broken off."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--token-days", type=int, default=30, metavar="DAYS", help="that an expired token stays in sight (default 30)"
        )
        parser.add_argument(
            "--dead-letter-days", type=int, default=90, metavar="DAYS", help="that a dead letter is kept (default 90)"
        )

    def handle(self, *, token_days, dead_letter_days, **_):
        for option, days in (("--token-days", token_days), ("--dead-letter-days", dead_letter_days)):
            if not 0 <= days <= MOST_DAYS:
                raise CommandError(f"{option}: expected 0 to {MOST_DAYS} days, got {days}")
        now = timezone.now()
        sessions = retention.sweep_sessions(now)
        tokens = retention.sweep_tokens(now - timedelta(days=token_days))
        letters = retention.sweep_dead_letters(now - timedelta(days=dead_letter_days))
        self.stdout.write(f"{sessions} sessions, {tokens} tokens and {letters} dead letters swept")
