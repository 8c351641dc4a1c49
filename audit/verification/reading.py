"""Transactions that cannot write, whatever the role may."""

from contextlib import contextmanager

from django.db import connection, transaction


@contextmanager
def read_only():
    """A short one for each read: a snapshot that lasts would keep PostgreSQL from clearing away the outbox's dead rows.
    Yields psycopg's connection. No setting outlives it, so that it may pass through a pooler."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        yield connection.connection
