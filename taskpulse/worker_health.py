"""What `/healthz`, `/readyz` and `/metrics` of relay and consumer answer.

Liveness asks the worker alone, so that no outage of a dependency restarts it. Readiness and metrics ask PostgreSQL and the
broker, each for PATIENCE seconds at most: a probe has an answer although neither has one.
"""

import time
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import KafkaException
from django.conf import settings
from django.db import connections

from audit import dead_letters
from taskpulse import exposition, health
from taskpulse.metrics import CONSUMER_LAG, DEAD_LETTER_BYTES, DEAD_LETTER_LIMIT, OUTBOX_HELD, OUTBOX_OLDEST_AGE, OUTBOX_PENDING
from taskpulse.observation import Observation, Observer
from taskpulse.on_demand import Look, OnDemand
from taskpulse.worker import Stop
from tasks import outbox_figures
from tasks.outbox_figures import OutboxFigures

# Seconds, each. Kubernetes gives a probe one second unless it is told otherwise.
PATIENCE = 0.4

Checks = dict[str, str | None]


class Worker(Protocol):
    """Its attributes are set by the role's own thread and read by those of the probes."""

    role: str
    # When the loop last went round, by the monotonic clock.
    beat: float
    # Those of the topic that are this worker's to handle.
    partitions: frozenset[int]

    def troubles(self) -> dict[str, str]:
        """What keeps it from its work, by what is at fault."""

    def notes(self) -> dict[str, str]:
        """What one may want to know of it, and is no fault."""

    def stuck(self) -> str | None:
        """What a new process would mend, and no dependency."""


class WorkerHealth:
    def __init__(self, worker: Worker, stop: Stop, notes: Callable[[], dict[str, str]] = dict):
        self._worker, self._stop, self._other_notes = worker, stop, notes
        self._database = OnDemand("look at the database", _read_database)
        self._broker = OnDemand("look at the broker", Observer(settings.KAFKA_TOPIC, settings.KAFKA_AUDIT_GROUP).observe)
        self._progress = Progress()

    def begin(self) -> None:
        """The first look takes longest: it is over by the time that the first probe asks."""
        for look in (self._database, self._broker):
            look.look(0)

    def live(self) -> Checks:
        stuck = self._worker.stuck()
        return {self._worker.role: stuck} if stuck else {}

    def ready(self) -> tuple[Checks, dict[str, str]]:
        """What is wrong, by check, and what else is to be said."""
        if self._stop.requested:
            return {"stopping": "this process was asked to stop"}, {}
        checks, figures, observation = self._look()
        if figures is not None and self._worker.role == "relay":
            checks["outbox"] = _growing(figures)
        checks[self._worker.role] = self._worker.stuck() or self._busy() or self._no_progress(observation)
        notes = self._worker.notes() | self._other_notes()
        if figures is not None and figures.held:
            notes["held"] = f"{figures.held} events are held: look at them in the console, mend the cause, release them"
        return checks, notes

    def metrics(self) -> bytes:
        checks, figures, observation = self._look()
        OUTBOX_PENDING.replace({(): figures.pending} if figures else {})
        OUTBOX_OLDEST_AGE.replace({(): figures.oldest_age} if figures else {})
        OUTBOX_HELD.replace({(): figures.held} if figures else {})
        DEAD_LETTER_LIMIT.set(settings.DEAD_LETTER_MB * 1_000_000)
        lag = observation.lag() if observation else {}
        CONSUMER_LAG.replace({(settings.KAFKA_AUDIT_GROUP, str(number)): count for number, count in lag.items()})
        return exposition.page(checks)

    def _look(self) -> tuple[Checks, OutboxFigures | None, Observation | None]:
        database, broker = self._database.look(PATIENCE), self._broker.look(PATIENCE)
        if database.value is None:
            checks: Checks = {"database": _told(database), "migrations": "unknown: the database cannot be reached"}
            figures = None
        else:
            checks, figures = dict(database.value[0]), database.value[1]
        checks["kafka"] = _told(broker)
        for name, trouble in self._worker.troubles().items():
            # Of PostgreSQL the look says it without its address and role, of Kafka the client knows more, and sooner.
            checks[name] = trouble if name == "kafka" else checks.get(name) or trouble
        if broker.value is not None:
            self._progress.seen(broker.value)
        return checks, figures, broker.value

    def _busy(self) -> str | None:
        seconds = time.monotonic() - self._worker.beat
        return f"what it does now has taken {seconds:.0f} s" if seconds > settings.STUCK_SECONDS else None

    def _no_progress(self, observation: Observation | None) -> str | None:
        if observation is None:
            return None
        for number, seconds in sorted(self._progress.standing().items()):
            if number in self._worker.partitions and seconds > settings.STUCK_SECONDS:
                return f"{observation.lag()[number]} messages of partition {number} wait, and none was handled for {seconds:.0f} s"
        return None


class Progress:
    """Since when each partition has had messages for the group and no commit, as far as anybody looked."""

    def __init__(self):
        self._commits: dict[int, int] = {}
        self._since: dict[int, float] = {}

    def seen(self, observation: Observation) -> None:
        now = time.monotonic()
        lag = observation.lag()
        behind = {number: observation.commits.get(number, -1) for number, count in lag.items() if count}
        self._since = {
            number: self._since.get(number, now) if self._commits.get(number) == commit else now
            for number, commit in behind.items()
        }
        self._commits = behind

    def standing(self) -> dict[int, float]:
        """Seconds, by partition."""
        now = time.monotonic()
        return {number: now - since for number, since in self._since.items()}


def _read_database() -> tuple[Checks, OutboxFigures | None]:
    try:
        checks = health.database_checks()
        # Without its migrations it has no outbox, or another one.
        wrong = any(checks.values())
        DEAD_LETTER_BYTES.replace({} if wrong else {(): dead_letters.table_bytes()})
        return checks, None if wrong else outbox_figures.read()
    finally:
        connections.close_all()


def _growing(figures: OutboxFigures) -> str | None:
    if figures.unpublished_age <= settings.STUCK_SECONDS:
        return None
    return f"{figures.pending} changes are not in the audit log, the oldest unpublished one for {figures.unpublished_age:.0f} s"


def _told(look: Look) -> str | None:
    if look.error is None:
        return None
    reason = look.error.args[0] if isinstance(look.error, KafkaException) else look.error
    text = reason.str() if hasattr(reason, "str") else str(reason)
    return text.strip() or "no answer"
