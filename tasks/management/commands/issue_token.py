"""`manage.py issue_token USERNAME`: an API token where there is no browser yet."""

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from tasks.tokens import ApiToken


class Command(BaseCommand):
    help = "Make an API token for a user and print its secret, which is shown this once and kept nowhere."

    def add_arguments(self, parser):
        parser.add_argument("username")
        parser.add_argument(
            "--name", default="made by manage.py issue_token", help="what the token is for (at most 100 characters)"
        )

    def handle(self, *, username, name, **_):
        if not 1 <= len(name) <= 100:
            raise CommandError(f"--name: expected 1 to 100 characters, got {len(name)}")
        user = get_user_model().objects.filter(username=username, is_active=True).first()
        if user is None:
            raise CommandError(f"there is no active user {username!r}: `manage.py createsuperuser` makes the first one")
        _, secret = ApiToken.issue(user, name)
        self.stdout.write(secret)
