"""Discarding dead letters: they go, and that they went is itself recorded."""

from collections.abc import Sequence

from django.db import connection, transaction


def discard(ids: Sequence[int]) -> int:
    """Deletes dead letters; each leaves an event `audit.dead_letter.discarded` with where it came from and its digest.

    Letters and events go together or not at all. Returns how many were there; idempotent. A procedure of the database
    does it: a role that could itself DELETE could leave out the event.
    """
    # In a transaction, so that the database is told who does it.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CALL audit_discard_dead_letters(%s::bigint[])", [list(ids)])
        return cursor.fetchone()[0]
