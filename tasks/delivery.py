"""Sending a batch of outbox rows to Kafka, and what became of each."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from uuid import UUID

from confluent_kafka import KafkaError, KafkaException, Producer

from taskpulse import kafka, logs, tracing
from tasks import events
from tasks.events import CONTENT_TYPE

logger = logging.getLogger("taskpulse.relay")

# The broker's verdict on a record itself, which no later try changes (Kafka protocol error codes 10, 18, 4, 87).
# Everything else is an outage: what it says about the topic, a right or the cluster is not the event's fault.
REFUSALS = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD}
)
# Seconds to wait for the reports of a batch before it is given up and sent again by a new producer.
DELIVERY_TIMEOUT = 10.0
# Seconds that one try to reach a broker may take.
CONNECT_TIMEOUT = 2.0
# Seconds to wait for the cause of an outage: librdkafka may report that no broker is left before it reports why.
CAUSE_TIMEOUT = 1.0
_HEADERS = [("content-type", CONTENT_TYPE)]


class BrokerUnavailable(Exception):
    """The broker cannot be reached or does not take anything now; nothing is wrong with the events."""


class Row(NamedTuple):
    id: int
    subject_type: str
    subject_id: str
    version: int | None
    task_id: UUID | None
    payload: bytes
    # How often it went out before it was selected.
    attempts: int = 0

    @property
    def key(self) -> bytes:
        return str(self.task_id or self.subject_id).encode()

    @property
    def subject(self) -> tuple:
        """What must stay in order together; an act without a row (no version) only with itself."""
        return (self.subject_type, self.subject_id) if self.version is not None else (self.id,)


@dataclass
class Report:
    """`delivered`: ids with a positive delivery report. `refused`: ids with the broker's reason. `trouble`: why the rest
    was not delivered, if there is a rest."""

    delivered: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    trouble: str | None = None


class Delivery:
    """An idempotent producer (`acks=all`), made anew whenever it fails: the embedded broker comes back on other ports.

    `may_go_on` is asked while reports are awaited; once it says no, nothing more is sent.
    """

    def __init__(self, topic: str, may_go_on: Callable[[], bool]):
        self._topic, self._may_go_on = topic, may_go_on
        self._producer: Producer | None = None
        self._connected = False
        self._servers = ""
        self._failure: str | None = None
        # What librdkafka said last, since the failure of a call seldom tells more than that it took too long.
        self._reason = ""
        self.is_embedded = False

    def open(self) -> None:
        """Raises BrokerUnavailable unless a broker answers and has the topic."""
        if self._connected and self._failure is None:
            self._producer.poll(0)  # serves errors that came meanwhile
        if self._connected and self._failure is None:
            return
        try:
            self._connect(kafka.bootstrap_servers())
        except (KafkaException, OSError) as error:
            raise BrokerUnavailable(self._describe(error)) from error

    def _connect(self, servers: str) -> None:
        # A producer that has not reached its broker yet is kept: on a slow network it may need several tries.
        if self._connected or servers != self._servers:
            self.close()
        if self._producer is None:
            # librdkafka would log each of its tries to connect: an outage is logged once, with the reason it gave last.
            own = {"bootstrap.servers": servers, "error_cb": self._on_error, "log_level": 2}
            self._producer = Producer(kafka.producer_settings() | own)
            self._servers = servers
        self._producer.poll(0)
        metadata = self._producer.list_topics(self._topic, timeout=CONNECT_TIMEOUT)
        if not metadata.topics[self._topic].partitions:
            kafka.ensure_topic(self._topic)
        self.is_embedded = kafka.is_mock_cluster(metadata.cluster_id or "")
        self._connected, self._failure, self._reason = True, None, ""

    def close(self) -> None:
        """Forgets what was not delivered: the outbox has it still."""
        producer, self._producer = self._producer, None
        self._connected, self._servers, self._failure = False, "", None
        if producer is not None:
            producer.purge()
            producer.flush(0)

    def send(self, rows: Sequence[Row]) -> Report:
        """Sends the rows in this order and waits for their delivery reports.

        After a refusal on the spot the later versions of that subject are not sent.
        """
        report, stopped, began = Report(), set(), time.monotonic()
        for row in rows:
            if row.subject in stopped:
                continue
            try:
                # librdkafka copies key and value; the bytes of the payload go out as they are.
                self._producer.produce(
                    self._topic, row.payload, row.key, headers=_HEADERS, on_delivery=partial(self._on_delivery, report, row.id)
                )
            except KafkaException as error:
                self._on_delivery(report, row.id, error.args[0], None)
                stopped.add(row.subject)
            except BufferError:
                report.trouble = "the producer's queue is full"
                break
        self._await(report)
        _tell(rows, report, began)
        return report

    def _await(self, report: Report) -> None:
        end = time.monotonic() + DELIVERY_TIMEOUT
        while self._producer.flush(0.1):
            if self._failure is None and time.monotonic() < end and self._may_go_on():
                continue
            report.trouble = self._cause() if self._failure else "no delivery report in time"
            self.close()
            return
        if self._failure is not None or report.trouble is not None:
            self.close()

    @staticmethod
    def _on_delivery(report: Report, row_id: int, error: KafkaError | None, _message) -> None:
        if error is None:
            report.delivered.add(row_id)
        elif error.code() in REFUSALS:
            report.refused[row_id] = error.str()
        else:
            report.trouble = report.trouble or error.str()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._reason = error.str()
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._failure = error.str()

    def _describe(self, error: Exception) -> str:
        cause = error.args[0] if error.args else error
        said = cause.str() if isinstance(cause, KafkaError) else str(error)
        if self._producer is not None:
            self._producer.poll(0)
        return self._with_reason(said)

    def _cause(self) -> str:
        end = time.monotonic() + CAUSE_TIMEOUT
        while not self._reason and time.monotonic() < end:
            self._producer.poll(0.05)
        return self._with_reason(self._failure)

    def _with_reason(self, said: str) -> str:
        return f"{said} ({self._reason})" if self._reason not in said else said


def _tell(rows: Sequence[Row], report: Report, began: float) -> None:
    """One line in the log, and the batch's spans if traces are on."""
    published = [row for row in rows if row.id in report.delivered]
    if published:
        fields = {"published": len(published), "duration_ms": round((time.monotonic() - began) * 1000, 3)}
        fields |= {"outbox_first": published[0].id, "outbox_last": published[-1].id}
        request_ids = (events.attribute(row.payload, events.REQUEST_ID) for row in published)
        named = ((events.attribute(row.payload, events.ID), row.task_id) for row in published)
        text = "%(published)d events published in %(duration_ms).1f ms"
        logs.batch(logger, text, fields, request_ids, len(published), named)
        if tracing.ENABLED:
            tracing.batch("relay", "publish", (row.payload for row in published), began)
