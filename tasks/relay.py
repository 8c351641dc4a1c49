"""The relay: outbox -> Kafka, at least once, in version order within a subject.

It keeps no cursor, since identity values become visible out of order: an unpublished row is what is to be done. A row is
marked published only from its delivery report, so a crash between the two repeats it and never loses it; the recorder
absorbs repeats. No row is locked while the relay talks to Kafka. An outage of the broker sets nothing aside.
"""

import logging
import time
from collections.abc import Sequence

from django.conf import settings
from django.db import connection

from taskpulse.metrics import BATCH_EVENTS, BATCH_SECONDS, PUBLISHED, REFUSED, RELAY_ACTIVE, REPUBLISHED
from taskpulse.worker import DATABASE_FAULTS, Stop
from tasks.active_lock import LEASE, ActiveLock
from tasks.barrier import LossDetector
from tasks.delivery import BrokerUnavailable, Delivery, Report, Row
from tasks.horizon import Horizon
from tasks.outage import Outage
from tasks.relay_queue import IDLE_SHARE, Queue, Window

logger = logging.getLogger("taskpulse.relay")

# Seconds between two tries of a standby; a takeover takes one of these and the making of a producer.
STANDBY_POLL = 0.5
# Seconds without a sign of the loop, beside those that a statement may take, after which it hangs: much longer than a batch
# waits for its reports, and than it waits after a failure.
FROZEN = 90.0
# Seconds that a batch in hand may still take once a stop is requested.
STOP_PATIENCE = 0.5
_PUBLISHING = "publishing to Kafka"


class TooManyHeld(Exception):
    """The broker refuses so many events that the fault must be the broker's."""


class Relay:
    """`step()` does one unit of work and says whether it found any; after a step that did not, wait `pause` seconds.

    Only the process that holds the lock publishes. It loses the lock with its connection, stops at once and competes
    again. Faults of database and broker are logged once, waited for and never raised.
    """

    role = "relay"

    def __init__(self, stop: Stop | None = None):
        self.pause = 0.0
        # When the loop last went round, by the monotonic clock.
        self.beat = time.monotonic()
        # It owns no partition.
        self.partitions: frozenset[int] = frozenset()
        self._stop = stop or Stop()
        self._lock = ActiveLock(f"relay {settings.KAFKA_TOPIC}", LEASE)
        self._delivery = Delivery(settings.KAFKA_TOPIC, self._may_go_on)
        self._horizon = Horizon()
        self._queue = Queue(self._horizon)
        self._losses: LossDetector | None = None
        self._window: Window | None = None
        self._broker_outage, self._database_outage = Outage(_PUBLISHING), Outage("the relay's database")
        # Delivered, but not marked yet: id and the attempts it had when it was selected.
        self._unmarked: dict[int, int] = {}
        # When a stop was first noticed in the middle of a batch.
        self._stopping: float | None = None
        RELAY_ACTIVE.set(0)

    @property
    def active(self) -> bool:
        return self._losses is not None

    def step(self) -> bool:
        self.beat = time.monotonic()
        self.pause = settings.RELAY_POLL_MS / 1000
        try:
            if not (self.active and self._lock.held()) and not self._compete():
                self._database_outage.over()
                self.pause = STANDBY_POLL
                return False
            found = self._look_for_losses()
            self._delivery.open()
            found |= self.publish_batch()
        except DATABASE_FAULTS as error:
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

    def troubles(self) -> dict[str, str]:
        """What keeps the relay from its work, by dependency. For another thread."""
        outages = {"database": self._database_outage, "kafka": self._broker_outage}
        return {name: outage.reason for name, outage in outages.items() if outage.present}

    def notes(self) -> dict[str, str]:
        return {"relay": "active" if self.active else "standby: another relay is the active one"}

    def stuck(self) -> str | None:
        """What a new process mends, since this one keeps the lock: a step that takes longer than all that it may wait for. What
        fails is tried again."""
        silence = time.monotonic() - self.beat
        if silence > FROZEN + settings.WORKER_STATEMENT_TIMEOUT_MS / 1000:
            return f"the relay has not come back for {silence:.0f} s"
        return None

    def _compete(self) -> bool:
        """Steps down, if it was active, and tries for the lock."""
        if self.active:
            logger.warning("this relay lost its lock: it stops publishing and competes again")
            self._step_down()
        if not self._lock.acquire():
            self._follow()
            return False
        if not self._horizon.holds:
            # Another server may have taken over, whose ids went back.
            self._horizon = Horizon()
        self._queue = Queue(self._horizon)
        self._window = Window(self._queue, settings.RELAY_WINDOW, settings.RELAY_BATCH)
        self._losses = LossDetector(settings.KAFKA_TOPIC, horizon=self._horizon)
        RELAY_ACTIVE.set(1)
        logger.info("this relay is the active one")
        return True

    def _follow(self) -> None:
        """A standby keeps an eye on how far back it would have to look: a takeover has no time to find out, where an open
        snapshot keeps what is dead."""
        if not self._horizon.holds:
            self._horizon = Horizon()
        self._horizon.follow()

    def _step_down(self) -> None:
        self._delivery.close()
        if self._losses is not None:
            self._losses.close()
            self._losses = None
        self._unmarked.clear()
        # A standby talks to no broker, and so knows of no outage.
        self._broker_outage = Outage(_PUBLISHING)
        RELAY_ACTIVE.set(0)

    def close(self) -> None:
        """Gives up the lock, so that a standby takes over at once."""
        self._step_down()
        self._lock.release()

    def _may_go_on(self) -> bool:
        """Asked while reports are awaited, every tenth of a second. A stop waits for them a moment longer: a standby is to
        take over within 2 s, and what has no report goes out again."""
        if self._stop.requested:
            self._stopping = self._stopping or time.monotonic()
            if time.monotonic() - self._stopping > STOP_PATIENCE:
                return False
        return self._lock.held()

    def _look_for_losses(self) -> bool:
        self._horizon.advance(self._window.highest)
        count = self._losses.step(self._window.highest)
        REPUBLISHED.inc(count)
        return count > 0

    def publish_batch(self) -> bool:
        """Publishes the oldest rows that the window has room for, and marks what was delivered.

        Raises BrokerUnavailable where something was not delivered (what was, is marked), and TooManyHeld.
        """
        if self._unmarked:
            self._mark(())
        room, room_bytes = self._window.room(self._delivery.is_embedded)
        if room <= 0 or room_bytes <= 0:
            return False
        start = time.monotonic()
        rows = self._queue.due(min(room, settings.RELAY_BATCH), room_bytes, self._unmarked)
        if not rows:
            self.pause = max(self.pause, min(1.0, IDLE_SHARE * (time.monotonic() - start)))
            return False
        report = self._delivery.send(rows)
        self._settle(rows, report)
        BATCH_EVENTS.labels(self.role).observe(len(rows))
        BATCH_SECONDS.labels(self.role).observe(time.monotonic() - start)
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
            self.beat = time.monotonic()  # each may take as long as a batch
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
        held = self._queue.held(settings.MAX_HELD_ROWS)
        if held >= settings.MAX_HELD_ROWS:
            raise TooManyHeld(f"the broker refuses event {row.id} ({reason}); {held} are held already (TASKPULSE_MAX_HELD_ROWS)")
        self._queue.hold(row.id, f"refused by the broker: {reason}")
        REFUSED.inc()
        logger.error("outbox event %d is held: the broker refuses it: %s", row.id, reason)

    def _mark(self, rows: Sequence[Row]) -> None:
        # Noted first: should the database be away just now, they are marked when it is back, not sent again.
        self._unmarked.update((row.id, row.attempts) for row in rows)
        self._window.published(rows)
        if self._unmarked:
            left = self._queue.mark(self._unmarked)
            self._unmarked = {row_id: attempts for row_id, attempts in self._unmarked.items() if row_id in left}
