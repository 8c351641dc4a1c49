"""The relay: outbox -> Kafka, at least once, in version order within a subject.

It keeps no cursor, since identity values become visible out of order: an unpublished row is what is to be done. A row is
marked published only from its delivery report, so a crash between the two repeats it and never loses it; the recorder
absorbs repeats. No row is locked while the relay talks to Kafka. An outage of the broker sets nothing aside.
"""

import logging
import time
from collections.abc import Iterable, Sequence

import psycopg
from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, connection

from taskpulse.metrics import PUBLISHED, REFUSED, RELAY_ACTIVE, REPUBLISHED
from taskpulse.worker import Stop
from tasks.active_lock import ActiveLock
from tasks.barrier import LossDetector, is_mock_cluster
from tasks.delivery import BrokerUnavailable, Delivery, Report, Row
from tasks.outage import Outage

logger = logging.getLogger("taskpulse.relay")

# Seconds between two tries of a standby; a takeover takes one of these and the making of a producer.
STANDBY_POLL = 0.5
# A batch holds no more payload than this, so that its memory is bounded (one event is under 900 KB).
BATCH_BYTES = 4_000_000
# The embedded broker keeps about 5 MB a partition, read or not. Where each row goes is its key's affair: in the worst
# case all go to one partition.
EMBEDDED_WINDOW_BYTES = 4_000_000
# Key, header and record framing on the wire, above the payload.
MESSAGE_OVERHEAD = 200
# A query that finds nothing to publish is repeated after this many times its own duration at the earliest.
IDLE_SHARE = 10

# A subject's rows from its lowest held version on are blocked (there are few held rows, and an index of them). `oldest`
# reads the unpublished rows in the order of their ids and stops at the batch's size. Ids may be out of version order
# (the backstop writes its events at commit), so earlier versions that wait are taken too and go first: a row's turn is
# the least id among itself and its later versions. The first rows by turn are a batch in which no version is skipped.
# (coalesce() keeps the planner to the index by subject: with old statistics it takes the partial index for empty.)
_SELECT = """
    WITH held AS MATERIALIZED (
      SELECT subject_type, subject_id, min(version) AS version FROM tasks_outbox WHERE held_at IS NOT NULL GROUP BY 1, 2
    ), oldest AS MATERIALIZED (
      SELECT id, subject_type, subject_id, version FROM tasks_outbox o
      WHERE published_at IS NULL AND held_at IS NULL AND id <> ALL (%(except)s::bigint[])
        AND (((subject_type, subject_id) IN (SELECT subject_type, subject_id FROM held)) IS NOT TRUE
             OR (version > (SELECT h.version FROM held h
                            WHERE h.subject_type = o.subject_type AND h.subject_id = o.subject_id)) IS NOT TRUE)
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
    ), batch AS MATERIALIZED (
      SELECT id, CASE WHEN version IS NULL THEN id
                 ELSE min(id) OVER (PARTITION BY subject_type, subject_id, version IS NULL ORDER BY version DESC) END AS turn
      FROM wanted ORDER BY turn, version LIMIT %(rows)s
    ), measured AS (
      SELECT b.turn, o.id, subject_type, subject_id, version, task_id, payload, row_number() OVER queue AS place,
             sum(octet_length(payload) + %(overhead)s) OVER queue AS bytes
      FROM batch b JOIN tasks_outbox o ON o.id = b.id WINDOW queue AS (ORDER BY turn, version)
    )
    SELECT id, subject_type, subject_id, version, task_id, payload FROM measured
    WHERE bytes <= %(bytes)s OR place = 1 AND %(alone)s::boolean ORDER BY place
"""
# A row that the recorder is removing at this moment (its message can be faster than its mark) is skipped, for waiting
# while holding other rows could deadlock with it. What is still there and unmarked comes back, to be marked next time.
_MARK = """
    WITH waiting AS (
      SELECT id FROM tasks_outbox WHERE id = ANY (%(ids)s::bigint[]) AND published_at IS NULL
    ), free AS (
      SELECT id FROM tasks_outbox WHERE id = ANY (%(ids)s::bigint[]) AND published_at IS NULL FOR UPDATE SKIP LOCKED
    ), marked AS (
      UPDATE tasks_outbox o SET published_at = clock_timestamp(), attempts = attempts + 1
      FROM free WHERE o.id = free.id RETURNING o.id
    )
    SELECT id FROM waiting EXCEPT SELECT id FROM marked
"""
_HIGHEST = "SELECT coalesce(max(id), 0) FROM tasks_outbox WHERE published_at IS NOT NULL"
# What is published and neither recorded nor held; at most the window, and no look at the backlog above the highest.
_ON_THE_WAY = """
    SELECT count(*), coalesce(sum(octet_length(payload) + %s), 0) FROM (
      SELECT payload FROM tasks_outbox WHERE id <= %s AND published_at IS NOT NULL AND held_at IS NULL LIMIT %s) w
"""
_COUNT_HELD = "SELECT count(*) FROM (SELECT FROM tasks_outbox WHERE held_at IS NOT NULL LIMIT %s) h"
_HOLD = """
    UPDATE tasks_outbox SET held_at = clock_timestamp(), held_reason = %s, attempts = attempts + 1
    WHERE id = %s AND held_at IS NULL AND published_at IS NULL
"""


class TooManyHeld(Exception):
    """The broker refuses so many events that the fault must be the broker's."""


class Relay:
    """`step()` does one unit of work and says whether it found any; after a step that did not, wait `pause` seconds.

    Only the process that holds the lock publishes. It loses the lock with its connection, stops at once and competes
    again. Faults of database and broker are logged once, waited for and never raised.
    """

    def __init__(self, stop: Stop | None = None):
        self.pause = 0.0
        self._stop = stop or Stop()
        self._lock = ActiveLock(f"relay {settings.KAFKA_TOPIC}")
        self._delivery = Delivery(settings.KAFKA_TOPIC, self._lock.held)
        self._losses: LossDetector | None = None
        self._broker_outage, self._database_outage = Outage("publishing to Kafka"), Outage("the relay's database")
        # The highest id ever published, and what is published and not recorded: never less than the truth.
        self._highest = 0
        self._rows = self._bytes = 0
        self._next_count = 0.0
        # Delivered, but not marked yet.
        self._unmarked: set[int] = set()
        self._session = None

    @property
    def active(self) -> bool:
        return self._losses is not None

    def step(self) -> bool:
        self.pause = settings.RELAY_POLL_MS / 1000
        try:
            if not (self.active and self._lock.held()) and not self._compete():
                self.pause = STANDBY_POLL
                return False
            found = self._look_for_losses()
            self._delivery.open()
            found |= self.publish_batch()
        except (OperationalError, InterfaceError, InternalError, psycopg.OperationalError) as error:
            connection.close()
            self.pause = self._database_outage.failed(error)
            return False
        except (BrokerUnavailable, TooManyHeld) as error:
            self._database_outage.over()
            self.pause = self._broker_outage.failed(error)
            return False
        self._database_outage.over()
        self._broker_outage.over()
        return found

    def _compete(self) -> bool:
        """Steps down, if it was active, and tries for the lock."""
        if self.active:
            logger.warning("this relay lost its lock: it stops publishing and competes again")
            self._step_down()
        if not self._lock.acquire():
            return False
        ((self._highest,),) = self._execute(_HIGHEST, [])
        self._count_on_the_way()
        self._losses = LossDetector(settings.KAFKA_TOPIC)
        RELAY_ACTIVE.set(1)
        logger.info("this relay is the active one")
        return True

    def _step_down(self) -> None:
        self._delivery.close()
        if self._losses is not None:
            self._losses.close()
            self._losses = None
        self._unmarked.clear()
        RELAY_ACTIVE.set(0)

    def close(self) -> None:
        """Gives up the lock, so that a standby takes over at once."""
        self._step_down()
        self._lock.release()

    def _look_for_losses(self) -> bool:
        count = self._losses.step(self._highest)
        REPUBLISHED.inc(count)
        return count > 0

    def publish_batch(self) -> bool:
        """Publishes the oldest rows that the window has room for, and marks what was delivered.

        Raises BrokerUnavailable where something was not delivered (what was, is marked), and TooManyHeld.
        """
        if self._unmarked:
            self._mark(())
        room, room_bytes = self._room()
        if room <= 0 or room_bytes <= 0:
            return False
        rows = self._select(min(room, settings.RELAY_BATCH), min(room_bytes, BATCH_BYTES))
        if not rows:
            return False
        report = self._delivery.send(rows)
        self._settle(rows, report)
        if report.trouble is not None:
            raise BrokerUnavailable(report.trouble)
        return True

    def _settle(self, rows: Sequence[Row], report: Report) -> None:
        """Marks what was delivered; after a version that was not, the later ones of its subject go out again."""
        delivered, refused, stopped = [], [], set()
        for row in rows:
            if row.subject in stopped:
                continue
            if row.id in report.delivered:
                delivered.append(row)
                continue
            stopped.add(row.subject)
            if row.id in report.refused:
                refused.append((row, report.refused[row.id]))
        self._mark(delivered)
        PUBLISHED.inc(len(report.delivered))
        for row, reason in refused:
            if self._stop.requested:
                return
            self._settle_refused(row, reason, len(rows) > 1)

    def _settle_refused(self, row: Row, reason: str, was_in_company: bool) -> None:
        """Holds a row that the broker refuses when it comes alone.

        A broker judges whole record batches: the size limit that a batch exceeds, or the bad record in it, need not be
        this row's.
        """
        if was_in_company:
            self._delivery.open()
            report = self._delivery.send([row])
            if row.id not in report.refused:
                self._settle([row], report)
                if report.trouble is not None:
                    raise BrokerUnavailable(report.trouble)
                return
            reason = report.refused[row.id]
        ((held,),) = self._execute(_COUNT_HELD, [settings.MAX_HELD_ROWS])
        if held >= settings.MAX_HELD_ROWS:
            raise TooManyHeld(f"the broker refuses event {row.id} ({reason}); {held} are held already (TASKPULSE_MAX_HELD_ROWS)")
        self._execute(_HOLD, [f"refused by the broker: {reason}", row.id])
        REFUSED.inc()
        logger.error("outbox event %d is held: the broker refuses it: %s", row.id, reason)

    def _select(self, rows: int, limit_bytes: int) -> list[Row]:
        start = time.monotonic()
        parameters = {
            "except": _array(self._unmarked),
            "rows": rows,
            "bytes": limit_bytes,
            "overhead": MESSAGE_OVERHEAD,
            "alone": limit_bytes >= BATCH_BYTES,  # the first row goes whatever its size, unless the window is what limits it
        }
        found = [Row(*columns) for columns in self._execute(_SELECT, parameters)]
        if not found:
            self.pause = max(self.pause, min(1.0, IDLE_SHARE * (time.monotonic() - start)))
        return found

    def _mark(self, rows: Sequence[Row]) -> None:
        # Noted first: should the database be away just now, they are marked when it is back, not sent again.
        self._unmarked.update(row.id for row in rows)
        self._highest = max(self._highest, *(row.id for row in rows), 0)
        self._rows += len(rows)
        self._bytes += sum(len(row.payload) + MESSAGE_OVERHEAD for row in rows)
        if self._unmarked:
            left = self._execute(_MARK, {"ids": _array(self._unmarked)})
            self._unmarked = {row_id for (row_id,) in left}

    def _room(self) -> tuple[int, int]:
        """How many rows and bytes the window takes. Counts only when, by what is known, a batch might not fit."""
        window, embedded = settings.RELAY_WINDOW, is_mock_cluster(self._delivery.cluster_id)
        scarce = window - self._rows < settings.RELAY_BATCH or (embedded and self._rows > 0)
        if scarce and time.monotonic() >= self._next_count:
            self._count_on_the_way()
        return window - self._rows, EMBEDDED_WINDOW_BYTES - self._bytes if embedded else BATCH_BYTES

    def _count_on_the_way(self) -> None:
        start = time.monotonic()
        ((self._rows, self._bytes),) = self._execute(_ON_THE_WAY, [MESSAGE_OVERHEAD, self._highest, settings.RELAY_WINDOW])
        self._bytes = int(self._bytes)
        end = time.monotonic()
        self._next_count = end + IDLE_SHARE * (end - start)

    def _execute(self, statement: str, parameters) -> list[tuple]:
        with connection.cursor() as cursor:
            if connection.connection is not self._session:
                # The table is now empty, now full: a plan kept from the one would be ruinous in the other.
                cursor.execute("SET plan_cache_mode = force_custom_plan")
                self._session = connection.connection
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def _array(ids: Iterable[int]) -> str:
    """PostgreSQL's text form of an array, much cheaper than the adapter's element by element."""
    return "{" + ",".join(map(str, ids)) + "}"
