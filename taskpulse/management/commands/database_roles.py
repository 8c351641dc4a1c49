"""`manage.py database_roles`: makes the database's roles and gives them what `taskpulse/database_roles.py` says."""

from django.core.management.base import BaseCommand, CommandError

from taskpulse import database_roles


class Command(BaseCommand):
    help = (
        "Make the database roles of the web role, of relay and consumer, and of auditors, and grant each what it needs. Run it as "
        "the owner of the database after each `migrate`; it may be repeated. A role's password is set if TASKPULSE_…_ROLE_PASSWORD "
        "is given."
    )

    def handle(self, *, verbosity, **_):
        roles = database_roles.DatabaseRole.configured()
        try:
            unnamed = database_roles.apply(roles)
        except database_roles.CannotGrant as error:
            raise CommandError(str(error)) from None
        for table in unnamed:
            self.stderr.write(f"nobody but the owner may use the table {table}: taskpulse/database_roles.py does not name it")
        if verbosity:
            self.stdout.write(", ".join(f"{role.kind}: {role.name}" for role in roles))
