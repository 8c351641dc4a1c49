"""Whether a process signs in to PostgreSQL as somebody who may do more than its work: taskpulse.W020."""

import logging

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import Error, connections
from django.db.backends.signals import connection_created

NUMBER = "taskpulse.W020"
logger = logging.getLogger("taskpulse.database")

_EXCESS = """
SELECT current_user, CASE
  WHEN r.rolsuper THEN 'a superuser'
  WHEN EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND pg_has_role(c.relowner, 'USAGE'))
    THEN 'the owner of the tables'
END FROM pg_roles r WHERE r.rolname = current_user
"""


def excess(connection) -> str | None:
    """What is wrong with the role of a connection; None if it owns nothing here."""
    with connection.cursor() as cursor:
        cursor.execute(_EXCESS)
        role, what = cursor.fetchone()
    return what and f"This process signs in to PostgreSQL as {role}, {what}: who takes it over can rewrite the audit log."


@register(Tags.database, deploy=True)
def check_role(app_configs, databases=None, **_) -> list[CheckMessage]:
    """`check --deploy --database default`, run with the environment of web, relay or consumer."""
    try:
        wrong = "default" in (databases or ()) and excess(connections["default"])
    except Error:
        return []  # a database that is away is another check's affair
    hint = "Make roles with `manage.py database_roles`, and sign in as the one that is for this process."
    return [Warning(wrong, hint=hint, id=NUMBER)] if wrong else []


def warn_once() -> None:
    """Logs the warning with this process's first connection; for the processes that run as long as the service."""
    connection_created.connect(_look, dispatch_uid=NUMBER)


def _look(connection, **_) -> None:
    # Threads connect at the same time: only for one of them there is something to disconnect.
    if connection_created.disconnect(dispatch_uid=NUMBER) and (wrong := excess(connection)):
        logger.warning("%s: %s", NUMBER, wrong)
