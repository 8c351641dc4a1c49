"""Up to which id of the outbox nothing lives, so that the relay's statements need not pass all that is dead there.

As long as any session keeps an old snapshot (`pg_dump`, a long report), VACUUM removes no row that died since, and the
indexes keep an entry of each: a look from the beginning would take longer with every change.
"""

import time

from django.db import connection

# Seconds between two looks.
INTERVAL = 1.0
# Rows that may live on below: held ones, and what the recorder has not come to. With more of them the horizon stays.
MOST_STRAGGLERS = 1_000

_WRITERS = """
    SELECT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'tasks_outbox'::regclass AND mode = 'RowExclusiveLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_HIGHEST = "SELECT max(id) FROM tasks_outbox WHERE id > %(above)s"
_ALIVE = """
    (SELECT id FROM tasks_outbox WHERE id = ANY (%(stragglers)s::bigint[]))
    UNION ALL
    (SELECT id FROM tasks_outbox WHERE id > %(above)s AND id <= %(seen)s ORDER BY id LIMIT %(most)s)
"""
# Of the outbox what may be alive. Two halves, since an OR of the two is no range that an index could be asked for.
LIVE = """(
    SELECT * FROM tasks_outbox WHERE id = ANY (%(stragglers)s::bigint[])
    UNION ALL
    SELECT * FROM tasks_outbox WHERE id > %(above)s
) AS live"""


class Horizon:
    """Every row that lives has an id greater than `above` or is one of `stragglers`, and so has every row to come.

    Ids become visible out of order, so that one which was seen says nothing of those before it. But a transaction locks
    the table before it draws an id, and keeps the lock until its rows are visible or gone (PostgreSQL documentation,
    13.3.1; an identity column caches none). So when all that held the lock when an id had been seen are at an end, a look
    finds all that there will ever be up to that id. The lock of another table, or an old snapshot, holds up nothing.

    Ids never go back in one server's life; a relay whose session is another begins anew.
    """

    def __init__(self):
        self.above, self.stragglers = 0, "{}"
        # An id that was drawn, and who wrote to the table after that.
        self._seen, self._writers = 0, frozenset()
        self._next = 0.0
        # All of this holds in one session: another may be one of another server, whose ids went back.
        self._session = None

    @property
    def holds(self) -> bool:
        """Whether the session is still the one that all of this was seen in."""
        return self._session is not None and self._session is connection.connection

    def follow(self) -> None:
        """`advance` for a standby, which publishes nothing and so sees no id by itself: so its first look when it takes over
        need not pass what is dead. Raises django.db's errors."""
        if time.monotonic() >= self._next:
            (highest,) = self._look(_HIGHEST, self.parameters())
            self.advance(self._seen if highest is None else highest)

    def advance(self, highest: int) -> None:
        """At most once a second; `highest` is an id that somebody has seen. Raises django.db's errors."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        writers = self._look(_WRITERS, {})
        if not self._writers.isdisjoint(writers):
            return
        # A statement of its own: a snapshot that is newer than the look at the locks.
        alive = self._look(_ALIVE, {**self.parameters(), "seen": self._seen, "most": MOST_STRAGGLERS + 1})
        if len(alive) <= MOST_STRAGGLERS:
            self.above, self.stragglers = max(self.above, self._seen), "{" + ",".join(map(str, sorted(alive))) + "}"
        self._seen, self._writers = highest, frozenset(writers)

    def parameters(self) -> dict:
        """For a statement that holds LIVE, or its halves."""
        return {"above": self.above, "stragglers": self.stragglers}

    def _look(self, statement: str, parameters: dict) -> list:
        with connection.cursor() as cursor:
            self._session = self._session or connection.connection
            cursor.execute(statement, parameters)
            return [value for (value,) in cursor.fetchall()]
