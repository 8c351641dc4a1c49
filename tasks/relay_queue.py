"""The relay's side of the outbox table: what is due, what is on its way, what is marked and held. Each is one statement,
committed at once; nothing stays locked."""

import time
from collections.abc import Iterable, Mapping, Sequence

from django.db import connection

from tasks.delivery import Row
from tasks.horizon import LIVE, Horizon

# A batch holds no more payload than this, so that its memory is bounded (one event is under 900 KB).
BATCH_BYTES = 4_000_000
# Key, header and record framing on the wire, above the payload.
MESSAGE_OVERHEAD = 200
# A query that is repeated though it finds nothing rests for this many times its own duration.
IDLE_SHARE = 10

# A subject's rows from its lowest held version on are blocked (there are few held rows, and an index of them). `oldest`
# reads the unpublished rows in the order of their ids and stops at the batch's size. Ids may be out of version order
# (the backstop writes its events at commit), so earlier versions that wait are taken too and go first: a row's turn is
# the least id among itself and its later versions. The first rows by turn are a batch in which no version is skipped.
# (coalesce() keeps the planner to the index by subject: with old statistics it takes the partial index for empty.)
# Where `oldest` is all that is due there is none further back to look for: a look at the dead versions of a busy subject.
_SELECT = f"""
    WITH held AS MATERIALIZED (
      SELECT subject_type, subject_id, min(version) AS version FROM tasks_outbox WHERE held_at IS NOT NULL GROUP BY 1, 2
    ), oldest AS MATERIALIZED (
      SELECT id, subject_type, subject_id, version FROM {LIVE}
      WHERE published_at IS NULL AND held_at IS NULL AND id <> ALL (%(except)s::bigint[])
        AND (((subject_type, subject_id) IN (SELECT subject_type, subject_id FROM held)) IS NOT TRUE
             OR (version > (SELECT h.version FROM held h
                            WHERE h.subject_type = live.subject_type AND h.subject_id = live.subject_id)) IS NOT TRUE)
      ORDER BY id LIMIT %(rows)s
    ), wanted AS (
      SELECT * FROM oldest
      UNION
      SELECT e.* FROM (
        SELECT subject_type, subject_id, max(version) AS version FROM oldest WHERE version IS NOT NULL GROUP BY 1, 2
      ) s CROSS JOIN LATERAL (
        SELECT id, subject_type, subject_id, version FROM tasks_outbox
        WHERE subject_type = s.subject_type AND subject_id = s.subject_id AND version < s.version
          AND coalesce(published_at, held_at) IS NULL AND id <> ALL (%(except)s::bigint[])
        ORDER BY version LIMIT %(rows)s
      ) e
      WHERE (SELECT count(*) FROM oldest) = %(rows)s
    ), batch AS MATERIALIZED (
      SELECT id, CASE WHEN version IS NULL THEN id
                 ELSE min(id) OVER (PARTITION BY subject_type, subject_id, version IS NULL ORDER BY version DESC) END AS turn
      FROM wanted ORDER BY turn, version LIMIT %(rows)s
    ), measured AS (
      SELECT b.turn, o.id, subject_type, subject_id, version, task_id, payload, attempts, row_number() OVER queue AS place,
             sum(octet_length(payload) + %(overhead)s) OVER queue AS bytes
      FROM batch b JOIN tasks_outbox o ON o.id = b.id WINDOW queue AS (ORDER BY turn, version)
    )
    SELECT id, subject_type, subject_id, version, task_id, payload, attempts FROM measured
    WHERE bytes <= %(bytes)s OR place = 1 AND %(alone)s::boolean ORDER BY place
"""  # noqa: S608 (only constants)
# A row that the recorder is removing at this moment (its message can be faster than its mark) is skipped, for waiting
# while holding other rows could deadlock with it. What is still there and unmarked comes back, to be marked next time.
# What the recorder sent back or held meanwhile (another number of attempts, a hold) is not marked: it is to go out again.
_SENT = """
    id = ANY (%(ids)s::bigint[]) AND published_at IS NULL AND held_at IS NULL
    AND (id, attempts) IN (SELECT * FROM unnest(%(ids)s::bigint[], %(attempts)s::int[]))
"""
_MARK = f"""
    WITH waiting AS (
      SELECT id FROM tasks_outbox WHERE {_SENT}
    ), free AS (
      SELECT id FROM tasks_outbox WHERE {_SENT} FOR UPDATE OF tasks_outbox SKIP LOCKED
    ), marked AS (
      UPDATE tasks_outbox o SET published_at = clock_timestamp(), attempts = attempts + 1
      FROM free WHERE o.id = free.id RETURNING o.id
    )
    SELECT id FROM waiting EXCEPT SELECT id FROM marked
"""  # noqa: S608 (only constants)
# Below the horizon nothing lives but what it names.
_HIGHEST = f"SELECT greatest(%(above)s::bigint, max(id)) FROM {LIVE} WHERE published_at IS NOT NULL"  # noqa: S608 (only constants)
# What is published and neither recorded nor held; at most the window, and no look at the backlog above the highest.
_ON_THE_WAY = f"""
    SELECT count(*), coalesce(sum(octet_length(payload) + %(overhead)s), 0)::bigint FROM (
      SELECT payload FROM {LIVE} WHERE id <= %(highest)s AND published_at IS NOT NULL AND held_at IS NULL LIMIT %(limit)s) w
"""  # noqa: S608 (only constants)
_COUNT_HELD = "SELECT count(*) FROM (SELECT FROM tasks_outbox WHERE held_at IS NOT NULL LIMIT %s) h"
_HOLD = """
    UPDATE tasks_outbox SET held_at = clock_timestamp(), held_reason = %s, attempts = attempts + 1
    WHERE id = %s AND held_at IS NULL AND published_at IS NULL
"""


class Queue:
    """Raises django.db's errors."""

    def __init__(self, horizon: Horizon | None = None):
        self._session = None
        self._horizon = horizon or Horizon()

    def due(self, rows: int, room_bytes: int, but: Iterable[int]) -> list[Row]:
        """The next rows in the order in which they are to go out: at most `rows` and what `room_bytes` and BATCH_BYTES
        allow, without those of the ids `but`."""
        parameters = self._horizon.parameters() | {
            "except": _array(but),
            "rows": rows,
            "bytes": min(room_bytes, BATCH_BYTES),
            "overhead": MESSAGE_OVERHEAD,
            "alone": room_bytes >= BATCH_BYTES,  # the first row goes whatever its size, unless the window is what limits it
        }
        return [Row(*columns) for columns in self._execute(_SELECT, parameters)]

    def mark(self, sent: Mapping[int, int]) -> set[int]:
        """Marks delivered rows (id: attempts when they were selected) as published; returns those to be marked later."""
        parameters = {"ids": _array(sent), "attempts": _array(sent.values())}
        return {row_id for (row_id,) in self._execute(_MARK, parameters)}

    def highest_published(self) -> int:
        """The highest id that was published, or the horizon, if that is higher: of what is below, it names all that lives."""
        ((highest,),) = self._execute(_HIGHEST, self._horizon.parameters())
        return highest

    def on_the_way(self, highest: int, limit: int) -> tuple[int, int]:
        """How many rows up to the id `highest` are published and not recorded, counted up to `limit`, and their bytes."""
        if highest == 0:  # a look at nothing would pass all that is dead
            return 0, 0
        parameters = self._horizon.parameters() | {"overhead": MESSAGE_OVERHEAD, "highest": highest, "limit": limit}
        ((rows, size),) = self._execute(_ON_THE_WAY, parameters)
        return rows, size

    def held(self, limit: int) -> int:
        """How many rows are held, counted up to `limit`."""
        ((held,),) = self._execute(_COUNT_HELD, [limit])
        return held

    def hold(self, row_id: int, reason: str) -> None:
        self._execute(_HOLD, [reason, row_id])

    def _execute(self, statement: str, parameters) -> list[tuple]:
        with connection.cursor() as cursor:
            if connection.connection is not self._session:
                # The table is now empty, now full: a plan kept from the one would be ruinous in the other. And it may be full of
                # what is dead, which statistics say nothing of: each look has an index that leads past that.
                cursor.execute("SET plan_cache_mode = force_custom_plan; SET enable_seqscan = off")
                self._session = connection.connection
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


class Window:
    """How much may still be published before the recorder must catch up: what is known is never less than the truth, and
    it is counted anew only when, by what is known, a batch might not fit."""

    # The embedded broker keeps about 5 MB a partition, read or not. Where each row goes is its key's affair: in the worst
    # case all go to one partition.
    EMBEDDED_BYTES = 4_000_000

    def __init__(self, queue: Queue, size: int, batch: int):
        self._queue, self._size, self._batch = queue, size, batch
        # The highest id ever published.
        self.highest = queue.highest_published()
        self._next_count = 0.0
        self._count()

    def published(self, rows: Sequence[Row]) -> None:
        self.highest = max(self.highest, *(row.id for row in rows), 0)
        self._rows += len(rows)
        self._bytes += sum(len(row.payload) + MESSAGE_OVERHEAD for row in rows)

    def room(self, embedded: bool) -> tuple[int, int]:
        """Rows and bytes; not positive when there is none."""
        scarce = self._size - self._rows < self._batch or (embedded and self._rows > 0)
        if scarce and time.monotonic() >= self._next_count:
            self._count()
        return self._size - self._rows, self.EMBEDDED_BYTES - self._bytes if embedded else BATCH_BYTES

    def _count(self) -> None:
        start = time.monotonic()
        self._rows, self._bytes = self._queue.on_the_way(self.highest, self._size)
        end = time.monotonic()
        self._next_count = end + IDLE_SHARE * (end - start)


def _array(values: Iterable[int]) -> str:
    """PostgreSQL's text form of an array, much cheaper than the adapter's element by element."""
    return "{" + ",".join(map(str, values)) + "}"
