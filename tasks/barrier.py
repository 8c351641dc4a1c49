"""Loss detection: which published rows are no longer on their way to the audit log, though nobody recorded them.

A broker may lose what it acknowledged (a lost disk, retention, the embedded broker's 5 MB a partition). So the relay
notes an instant T and then each partition's high watermark. Whatever was published before T lies below these marks.
Once the audit group has read up to them, or the broker has dropped everything below them, a row published before T
that is still in the outbox will not be recorded by any message on the wire: it must go out again. A consumer that is
merely behind has not reached the marks and causes no repeat.
"""

import enum
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

from confluent_kafka import KafkaError, KafkaException
from django.conf import settings
from django.db import connection

from taskpulse import kafka
from taskpulse.observation import Observation, Observer
from tasks.horizon import LIVE, Horizon
from tasks.outage import Outage

logger = logging.getLogger("taskpulse.relay")

# Seconds between two looks at the broker.
INTERVAL = 1.0
# How long a row rests after its n-th publication before it may go out again: 0, 1, 2, 4 … seconds, at most this many.
LONGEST_REST = 60


class Verdict(enum.Enum):
    PASSED = "passed"
    WAIT = "wait"
    VOID = "void"


def decide(mark: Observation, now: Observation) -> Verdict:
    """What `now` says about the high watermarks of `mark`.

    VOID: these are not the same logs (another cluster or topic id, other partitions, a mark above the present high
    watermark), so offsets cannot be compared and the barrier begins anew. PASSED: on each partition the group's commit
    or the low watermark has reached the mark; an empty partition is passed. A commit above the present high watermark
    was made in an earlier life of the log and counts for nothing. WAIT: neither.
    """
    if mark.cluster_id != now.cluster_id or mark.highs.keys() != now.highs.keys():
        return Verdict.VOID
    if mark.topic_id is not None and now.topic_id is not None and mark.topic_id != now.topic_id:
        return Verdict.VOID
    if any(high > now.highs[partition] for partition, high in mark.highs.items()):
        return Verdict.VOID
    for partition, high in mark.highs.items():
        commit = now.commits.get(partition, -1)
        is_read = high <= commit <= now.highs[partition]
        if not is_read and now.lows[partition] < high:
            return Verdict.WAIT
    return Verdict.PASSED


class Barrier:
    """The marks and the instant T that belongs to them."""

    def __init__(self):
        self._moment: datetime | None = None
        self._mark: Observation | None = None

    def reset(self) -> None:
        self._moment = self._mark = None

    def advance(self, moment: datetime, now: Observation) -> datetime | None:
        """Takes an observation that was begun after `moment`; returns T when the marks made at T are passed.

        Passed or void, the observation makes the next marks.
        """
        verdict = Verdict.VOID if self._mark is None else decide(self._mark, now)
        if verdict is Verdict.WAIT:
            return None
        passed = self._moment if verdict is Verdict.PASSED else None
        self._moment, self._mark = moment, now
        return passed


# Whether anything waits long enough to ask, with the database's clock, which also made published_at. `id` bounds the
# look: what this relay published lies at or below its highest id, however long the backlog above is.
_WAITING = f"""
    SELECT clock_timestamp(), EXISTS (
      SELECT FROM {LIVE}
      WHERE id <= %(highest)s AND published_at < clock_timestamp() - make_interval(secs => %(age)s) AND held_at IS NULL)
"""  # noqa: S608 (only constants)
# SKIP LOCKED: a row that the recorder is removing at this moment is not lost, and waiting for it could deadlock.
_LOST = """
    id <= %(highest)s AND held_at IS NULL AND published_at IS NOT NULL
    AND published_at < %(before)s - make_interval(
      secs => CASE WHEN attempts <= 1 THEN 0 ELSE least(2 ^ least(attempts - 2, 30), %(longest)s) END)
    FOR UPDATE SKIP LOCKED
"""
_REPUBLISH = f"""
    WITH lost AS (
      SELECT id FROM tasks_outbox WHERE id > %(above)s AND {_LOST}
    ), straggling AS (
      SELECT id FROM tasks_outbox WHERE id = ANY (%(stragglers)s::bigint[]) AND {_LOST}
    )
    UPDATE tasks_outbox o SET published_at = NULL FROM (TABLE lost UNION ALL TABLE straggling) l WHERE o.id = l.id
"""  # noqa: S608 (only constants)


class LossDetector:
    """Clears `published_at` of rows that were lost on the way, so that the relay sends them again.

    `step()` never waits for the broker; it raises django.db's errors.
    """

    def __init__(self, topic: str, group: str | None = None, horizon: Horizon | None = None):
        self._topic = topic
        self._horizon = horizon or Horizon()
        self._observer = Observer(topic, group or settings.KAFKA_AUDIT_GROUP)
        self._barrier = Barrier()
        self._thread = ThreadPoolExecutor(1, "loss-detection")
        self._outage = Outage("loss detection")
        self._future: Future | None = None
        self._moment: datetime | None = None
        self._next = 0.0

    def step(self, highest: int) -> int:
        """Looks at most once a second, among rows up to the id `highest`; returns how many rows go out again."""
        if self._future is None:
            self._begin(highest)
            return 0
        if not self._future.done():
            return 0
        future, self._future = self._future, None
        try:
            observation = future.result()
        except (KafkaException, OSError) as error:  # TimeoutError and kafka.NoBroker among them
            self._next = time.monotonic() + max(INTERVAL, self._outage.failed(error))
            return 0
        self._outage.over()
        passed = self._barrier.advance(self._moment, observation)
        return 0 if passed is None else self._republish(highest, passed)

    def _begin(self, highest: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        with connection.cursor() as cursor:
            cursor.execute(_WAITING, self._horizon.parameters() | {"highest": highest, "age": INTERVAL})
            moment, waiting = cursor.fetchone()
        if waiting:
            # T is read before the watermarks, and the commits before the rows.
            self._moment, self._future = moment, self._thread.submit(self._observe)
        else:
            self._barrier.reset()

    def _observe(self) -> Observation:
        """In a thread of its own, so that it never holds up publishing. A topic that was deleted is made anew."""
        try:
            return self._observer.observe()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                kafka.ensure_topic(self._topic)
            raise

    def _republish(self, highest: int, before: datetime) -> int:
        with connection.cursor() as cursor:
            parameters = {"highest": highest, "before": before, "longest": LONGEST_REST}
            cursor.execute(_REPUBLISH, self._horizon.parameters() | parameters)
            count = cursor.rowcount
        if count:
            logger.warning("%d published events are neither recorded nor on their way: sending them again", count)
        return count

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
