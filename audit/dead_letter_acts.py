"""What people do with dead letters: each act is itself recorded.

Procedures of the database do it: a role that could itself DELETE could leave out the event.
"""

from collections.abc import Sequence

from django.db import connection, transaction


def discard(ids: Sequence[int]) -> int:
    """Deletes dead letters; each leaves an event `audit.dead_letter.discarded` with where it came from and its digest.

    Letters and events go together or not at all. Returns how many were there; idempotent.
    """
    # In a transaction, so that the database is told who does it.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CALL audit_discard_dead_letters(%s::bigint[])", [list(ids)])
        return cursor.fetchone()[0]


def look(id: int) -> None:
    """Leaves an event `audit.dead_letter.viewed`: somebody is shown the raw bytes of this letter."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CALL audit_look_at_dead_letter(%s)", [id])
