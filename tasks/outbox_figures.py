"""How many changes wait in the outbox, and for how long: what metrics and probes of relay and consumer say of it."""

from typing import NamedTuple

from django.db import connection

# Rows are counted up to here. Above, PostgreSQL's own estimate for its planner (reltuples by page, at the table's present
# size) is enough, and counting would read the whole backlog each time.
COUNTED = 10_000

_READ = """
    SELECT pending, estimate, coalesce(extract(epoch FROM clock_timestamp() - oldest), 0)::float8,
           coalesce(extract(epoch FROM clock_timestamp() - unpublished), 0)::float8, held
    FROM (SELECT
      (SELECT count(*) FROM (SELECT FROM tasks_outbox LIMIT %(limit)s) p) AS pending,
      (SELECT created_at FROM tasks_outbox ORDER BY id LIMIT 1) AS oldest,
      (SELECT created_at FROM tasks_outbox WHERE published_at IS NULL AND held_at IS NULL ORDER BY id LIMIT 1) AS unpublished,
      (SELECT count(*) FROM (SELECT FROM tasks_outbox WHERE held_at IS NOT NULL LIMIT %(limit)s) h) AS held,
      (SELECT (reltuples / greatest(relpages, 1) * pg_relation_size(oid) / current_setting('block_size')::int)::bigint
       FROM pg_class WHERE oid = 'tasks_outbox'::regclass) AS estimate) figures
"""


class OutboxFigures(NamedTuple):
    # Committed and not in the audit log; exact up to COUNTED.
    pending: int
    # Seconds, 0 if there is none. Of the oldest of these, and of the oldest that is neither published nor held.
    oldest_age: float
    unpublished_age: float
    # Exact up to COUNTED, and never said to be more.
    held: int


def read() -> OutboxFigures:
    """One statement. Raises django.db's errors."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, {"limit": COUNTED + 1})
        pending, estimate, oldest, unpublished, held = cursor.fetchone()
    if pending > COUNTED:
        pending = max(pending, estimate)
    return OutboxFigures(pending, max(0.0, oldest), max(0.0, unpublished), min(held, COUNTED))
