"""Audit ingest: the recorder beside a bare binary COPY of the same rows and beside one insert and commit an event:
by the ORM from the message, as such a consumer is usually written ("naive"), and by prepared INSERTs of ready-made rows
("inserts", which no consumer reaches).

All write tables of one shape (partitioned, indexed) that grow alike; each takes one turn a round, the order changing
with the round. The recorder's turn has everything: parsing, digest, match and removal of the outbox rows, order, leaf,
tree, head, commit. The others get rows that are ready made; COPY in transactions of the recorder's batch size.
"""

import gc
import hashlib
import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from django.conf import settings
from django.db import connection, models, transaction
from psycopg.types.json import Jsonb

from audit import leaf, ledger, merkle, reconcile, recorder
from audit.models import Entry
from tasks import events
from tasks.models import Priority, Task
from tasks.outbox import OutboxEvent
from tests.benchmarks.machine import median

TYPES = [
    "int8", "uuid", "text", "text", "text", "int8", "uuid", "text", "text", "text", "text",
    "jsonb", "timestamptz", "timestamptz", "text", "int4", "int8", "bytea", "bytea",
]  # fmt: skip


class Delivered:
    """What the recorder asks of a consumed message, as cheap as librdkafka's."""

    __slots__ = ("_offset", "_partition", "_value")

    def __init__(self, value: bytes, partition: int, offset: int):
        self._value, self._partition, self._offset = value, partition, offset

    def value(self):
        return self._value

    def key(self):
        return None

    def headers(self):
        return []

    def error(self):
        return None

    def topic(self):
        return settings.KAFKA_TOPIC

    def partition(self):
        return self._partition

    def offset(self):
        return self._offset


def make_tasks(count: int) -> None:
    with transaction.atomic():
        Task.objects.bulk_create([Task(title=f"Refund order {number}", labels=["billing"]) for number in range(count)])
        OutboxEvent.objects.all().delete()


def make_events(round_number: int, first_offset: int) -> list[Delivered]:
    """An event of every task (850 bytes each), published and waiting in the outbox."""
    Task.objects.update(priority=Priority.values[round_number % 3])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tasks_outbox SET published_at = now() WHERE published_at IS NULL")
        cursor.execute("SELECT payload, task_id FROM tasks_outbox ORDER BY id")
        return [
            Delivered(bytes(payload), task_id.int % settings.KAFKA_PARTITIONS, first_offset + position)
            for position, (payload, task_id) in enumerate(cursor)
        ]


def make_table(name: str) -> None:
    """A table of the log's shape: partitioned by seq, with each of its indexes."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (LIKE task_audit_log INCLUDING ALL) PARTITION BY RANGE (seq)")
        cursor.execute(f"CREATE TABLE {name}_0 PARTITION OF {name} FOR VALUES FROM (1) TO (10000001)")
        cursor.execute(f"CREATE UNIQUE INDEX ON {name}_0 (event_id)")


def ready_rows(messages: list[Delivered], seq: int) -> list[tuple]:
    """The entries as COPY takes them; hash columns hold any 32 bytes."""
    rows = []
    for number, message in enumerate(messages, start=seq):
        event = events.parse(message.value())
        kind, subject = event.subject.split("/")
        digest = merkle.leaf_hash(message.value())
        rows.append((
            number, event.id, event.type, kind, subject, event.version, event.taskid, event.actorid, event.actorname,
            event.actortype, event.requestid, message.value(), event.time, event.time, message.topic(),
            message.partition(), message.offset(), digest, digest,
        ))  # fmt: skip
    return rows


def parts(items: list, size: int):
    return (items[start : start + size] for start in range(0, len(items), size))


def by_recorder(messages: list[Delivered]) -> None:
    handler = recorder.Recorder()
    for part in parts(messages, settings.CONSUMER_BATCH):
        handler.handle(part)


def by_copy(rows: list[tuple]) -> None:
    for part in parts(rows, settings.CONSUMER_BATCH):
        with (
            transaction.atomic(),
            connection.cursor() as cursor,
            cursor.copy("COPY bench_copy FROM STDIN (FORMAT BINARY)") as copy,
        ):
            cursor.cursor.adapters.register_dumper(Jsonb, ledger._PayloadDumper)  # as the recorder writes it
            copy.set_types(TYPES)
            for row in part:
                copy.write_row(row)


def by_single_inserts(rows: list[tuple]) -> None:
    statement = f"INSERT INTO bench_inserts VALUES ({', '.join(['%s'] * len(TYPES))})"
    payload = TYPES.index("jsonb")
    with connection.cursor() as cursor:
        for row in rows:
            cursor.execute(statement, [*row[:payload], Jsonb(row[payload], bytes), *row[payload + 1 :]])


def naive_model():
    """An entry of the table bench_naive, for the ORM."""
    meta = type("Meta", (), {"app_label": "audit", "db_table": "bench_naive", "managed": False})
    fields = {field.name: field.clone() for field in Entry._meta.fields}
    return type("NaiveEntry", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def by_orm(model, messages: list[Delivered], seq: int) -> None:
    """A consumer as it is usually written: parse the message, `create()` a row, commit, next."""
    for number, message in enumerate(messages, start=seq):
        event = json.loads(message.value())
        kind, subject = event["subject"].split("/")
        model.objects.create(
            seq=number, event_id=event["id"], event_type=event["type"], subject_type=kind, subject_id=subject,
            version=int(event["sequence"]), task_id=event["taskid"], actor_id=event.get("actorid"),
            actor_name=event.get("actorname"), actor_type=event.get("actortype"), request_id=event.get("requestid"),
            event_data=event, occurred_at=datetime.fromisoformat(event["time"]), processed_at=datetime.now(UTC),
            topic=message.topic(), partition=message.partition(), offset=message.offset(),
            digest=hashlib.sha256(message.value()).digest(), leaf_hash=b"",
        )  # fmt: skip


def timed(function, argument) -> float:
    """Events a second."""
    gc.collect()
    gc.freeze()  # what waits for its turn costs this one nothing
    start = time.perf_counter()
    function(argument)
    return len(argument) / (time.perf_counter() - start)


class Steps:
    """Where the recorder's time goes: wall time by step, from wrappers around its functions and statements."""

    STATEMENTS = {"WITH wire": "match and remove outbox rows", "UPDATE audit_log": "head", "SELECT origin": "head"}

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._saved: list[tuple] = []

    def add(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def _wrap(self, owner, name: str, step: str) -> None:
        inner = getattr(owner, name)

        def timed_call(*arguments, **options):
            start = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                self.add(step, time.perf_counter() - start)

        self._saved.append((owner, name, inner))
        setattr(owner, name, timed_call)

    def _statement(self, execute, sql, parameters, many, execution):
        start = time.perf_counter()
        try:
            return execute(sql, parameters, many, execution)
        finally:
            self.add(self.STATEMENTS.get(" ".join(sql.split()[:2]), "other statements"), time.perf_counter() - start)

    @contextmanager
    def watching(self):
        self._wrap(recorder, "_read", "parse and digest")
        self._wrap(reconcile, "take_true", "taking")
        self._wrap(recorder, "in_version_order", "version order")
        self._wrap(leaf, "record", "leaf and tree")
        self._wrap(merkle, "leaf_hash", "leaf and tree")
        self._wrap(merkle.Edge, "append", "leaf and tree")
        self._wrap(ledger, "append", "appending")
        self._wrap(connection, "_commit", "commit")
        try:
            with connection.execute_wrapper(self._statement):
                yield self
        finally:
            for owner, name, inner in self._saved:
                setattr(owner, name, inner)

    def shares(self, total: float) -> dict[str, float]:
        """Percent of `total` seconds; what encloses other steps counts for what they leave."""
        steps = dict(self.seconds)
        matched = steps.get("match and remove outbox rows", 0.0)
        steps["arrays and rows of the match"] = steps.pop("taking", 0.0) - matched
        steps["copy"] = steps.pop("appending", 0.0) - steps.get("leaf and tree", 0.0) - steps.get("head", 0.0) / 2
        steps["rest"] = total - sum(steps.values())
        return {step: round(100 * seconds / total, 1) for step, seconds in sorted(steps.items(), key=lambda item: -item[1])}


def run(rounds: int, events_a_round: int, naive_a_round: int) -> dict:
    """Rates in events a second, and the ratios within each round."""
    for name in ("bench_copy", "bench_naive", "bench_inserts"):
        make_table(name)
    naive = naive_model()
    make_tasks(events_a_round)
    rates: dict[str, list[float]] = {"recorder": [], "copy": [], "naive": [], "inserts": []}
    recorded = 0
    for number in range(-1, rounds):  # the first warms the caches
        messages = make_events(number, first_offset=recorded)
        rows = ready_rows(messages, recorded + 1)
        turns = [
            ("recorder", by_recorder, messages),
            ("copy", by_copy, rows),
            ("naive", partial(by_orm, naive, seq=recorded + 1), messages[:naive_a_round]),
            ("inserts", by_single_inserts, rows[:naive_a_round]),
        ]
        for name, function, argument in turns[number % 4 :] + turns[: number % 4]:
            rate = timed(function, argument)
            if number >= 0:
                rates[name].append(rate)
        recorded += len(messages)
    messages = make_events(rounds, first_offset=recorded)
    with Steps().watching() as steps:
        seconds = len(messages) / timed(by_recorder, messages)
    middle = {name: median(values) for name, values in rates.items()}
    return {
        "rounds": rounds,
        "events_a_round": events_a_round,
        "event_bytes": round(sum(len(message.value()) for message in messages) / len(messages)),
        "batch": settings.CONSUMER_BATCH,
        "events_a_second": {name: round(value) for name, value in middle.items()},
        "ingest_vs_copy": round(median(a / b for a, b in zip(rates["recorder"], rates["copy"], strict=True)), 2),
        "ingest_vs_naive": round(median(a / b for a, b in zip(rates["recorder"], rates["naive"], strict=True)), 1),
        "percent_of_time": steps.shares(seconds),
    }


def clear() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE bench_copy, bench_naive, bench_inserts")
    gc.unfreeze()
