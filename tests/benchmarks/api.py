"""The API beside a peer: the same requests, the same PostgreSQL, by turns, at several numbers of connections.

The FastAPI peer does the same durable work. The Express peer does less of it, and sends its event to Kafka within the
request. What waits in an outbox is not carried on meanwhile: relay and consumer do not run.
"""

import asyncio
import itertools
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection, transaction

from tasks.models import ApiToken, Priority, Status, Task
from tasks.outbox import OutboxEvent
from tests.benchmarks import load, services
from tests.benchmarks.machine import cpu_seconds, median, percentile, postmaster, resident_mb

OPERATIONS = ("create", "update", "list", "get")
TASKS = 5_000
DESCRIPTION = "The invoice of March was charged twice after the retry, and the refund went out once."


def seed() -> tuple[str, list[str]]:
    """Tasks, a member's token and the tasks' ids; what an earlier run left stays."""
    people = get_user_model().objects
    (ana, _), (ben, _) = people.get_or_create(username="ana"), people.get_or_create(username="ben")
    ana.groups.add(Group.objects.get(name="member"))
    _, secret = ApiToken.issue(ana, "benchmark")
    with transaction.atomic():
        tasks = [
            Task(
                title=f"Refund order {number}", description=DESCRIPTION, labels=["billing", "refund"], created_by=ana,
                priority=random.choice(Priority.values), status=random.choice(Status.values),
                assignee=random.choice([ana, ben, None]), category="invoices",
            )
            for number in range(TASKS)
        ]  # fmt: skip
        Task.objects.bulk_create(tasks)
        OutboxEvent.objects.all().delete()
    return secret, [str(task.pk) for task in tasks]


def copy_to_fastapi(database_url: str) -> None:
    """The peer's schema, with the same people and tasks."""
    os.environ["PEER_DATABASE_URL"] = database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    from tests.benchmarks import peer_fastapi

    async def create_tables():
        async with peer_fastapi.engine.begin() as session:
            await session.run_sync(peer_fastapi.Base.metadata.create_all)
        await peer_fastapi.engine.dispose()

    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA peer")
        asyncio.run(create_tables())
        cursor.execute('INSERT INTO peer."user" (id, username) SELECT id, username FROM auth_user')
        cursor.execute("INSERT INTO peer.token (digest, user_id) SELECT digest, user_id FROM tasks_apitoken")
        names = ", ".join(column.name for column in peer_fastapi.Task.__table__.columns)
        cursor.execute(f"INSERT INTO peer.task ({names}) SELECT {names} FROM tasks_task")
        for table in ("tasks_task", "tasks_outbox", "peer.task", "peer.outbox"):
            cursor.execute(f"VACUUM ANALYZE {table}")


def copy_to_express(database_url: str) -> None:
    """The peer's schema, with the same tasks, of the people whom TaskPulse has."""
    names = (
        "id, title, description, priority, status, category, summary, labels, assignee_id, due_at, created_at, updated_at, "
        "completed_at"
    )
    with connection.cursor() as cursor:
        cursor.execute((services.EXPRESS / "schema.sql").read_text())
        cursor.execute(f"INSERT INTO peer2.task ({names}) SELECT {names} FROM tasks_task")
        for table in ("tasks_task", "tasks_outbox", "peer2.task"):
            cursor.execute(f"VACUUM ANALYZE {table}")


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    schema: str
    copy: Callable[[str], None]
    # Of a port and a database's URL: a context manager of its processes, the server's first.
    serve: Callable
    connections: tuple[int, ...]


FASTAPI = Peer("fastapi", "peer", copy_to_fastapi, services.fastapi, (1, 8, 32))
EXPRESS = Peer("express", "peer2", copy_to_express, services.express, (8, 32))


def template_of(operation: str, token: str | None, headers: dict[str, str] | None = None) -> bytes:
    """A request to be completed by `%`: the task's id where there is one, then the number that makes a write unlike others."""
    if operation == "create":
        body = {"title": f"Refund order {load.MARKER}", "description": DESCRIPTION, "priority": "high", "labels": ["billing"]}
        return numbered(load.request("POST", "/api/tasks", token, json.dumps(body).encode(), headers))
    if operation == "update":
        body = {"description": f"{DESCRIPTION} Seen {load.MARKER}."}
        return numbered(load.request("PATCH", "/api/tasks/%s", token, json.dumps(body).encode(), headers))
    path = "/api/tasks" if operation == "list" else "/api/tasks/%s"
    return numbered(load.request("GET", path, token, None, headers))


def requests_of(operation: str, token: str | None, ids: list[str]):
    """A function that gives the next request's bytes; no two writes are alike."""
    numbers = itertools.count(random.randrange(10**7) * 9)
    chosen = itertools.cycle(random.sample([key.encode() for key in ids], len(ids)))
    template = template_of(operation, token)
    if operation == "create":
        return lambda: template % next(numbers)
    if operation == "update":
        return lambda: template % (next(chosen), next(numbers))
    if operation == "list":
        return lambda: template
    return lambda: template % next(chosen)


def numbered(request: bytes) -> bytes:
    return request.replace(load.MARKER.encode(), b"%08d")


@dataclass(frozen=True, slots=True)
class Side:
    port: int
    token: str | None
    ids: list[str]
    server: psutil.Process
    database: psutil.Process | None
    # That the server sends to within a request.
    broker: psutil.Process | None = None

    def cpu(self) -> tuple[float, float, float]:
        """Seconds of processor time so far: server, PostgreSQL, broker."""
        return cpu_seconds(self.server), cpu_seconds(self.database), cpu_seconds(self.broker)


def measure(side: Side, next_request: Callable[[], bytes], connections: int, seconds: float) -> dict:
    before = side.cpu()
    run = load.drive(side.port, next_request, connections, seconds)
    server, database, broker = ((after - earlier) / run.requests * 1e6 for earlier, after in zip(before, side.cpu(), strict=True))
    return {
        "rate": run.rate,
        "p50_ms": percentile(run.latencies, 0.5),
        "p99_ms": percentile(run.latencies, 0.99),
        "cpu_us": server + database,
        "database_cpu_us": database,
        "broker_cpu_us": broker,
        "client_cpu_us": run.client_cpu_us,
    }


def run(database_url: str, peer: Peer, rounds: int, seconds: float) -> dict:
    """Figures by operation and number of connections: medians of the rounds, and of the ratios within each round.

    Each round has servers of its own: what is started is some per cent better or worse for as long as it runs, whatever it runs
    (where its memory lies, which session has which core)."""
    token, ids = seed()
    peer.copy(database_url)
    database = postmaster(connection)
    connection.close()
    found: dict = {}
    for number in range(rounds):
        ports = services.free_port(), services.free_port()
        with services.taskpulse(ports[0]) as ours, peer.serve(ports[1], database_url) as (theirs, broker):
            sides = [Side(ports[0], token, ids, ours, database), Side(ports[1], token, ids, theirs, database, broker)]
            for side, operation in itertools.product(sides, OPERATIONS):
                measure(side, requests_of(operation, token, ids), 8, seconds / 2)  # every worker has seen everything
            turns = sides if number % 2 == 0 else sides[::-1]
            for connections, operation in itertools.product(peer.connections, OPERATIONS):
                pair = {side.port: measure(side, requests_of(operation, token, ids), connections, seconds) for side in turns}
                found.setdefault((operation, connections), []).append((pair[ports[0]], pair[ports[1]]))
            web, their_web = ([resident_mb(worker) for worker in side.children()] for side in (ours, theirs))
    details = {operation: {str(n): _summary(found[operation, n], peer.name) for n in peer.connections} for operation in OPERATIONS}
    return {
        "rounds": rounds, "seconds_a_turn": seconds, "web_worker_mb": web, f"{peer.name}_worker_mb": their_web,
        "operations": details,
    }  # fmt: skip


def _summary(pairs: list[tuple[dict, dict]], peer: str) -> dict:
    sides = {
        name: {key: round(median(pair[position][key] for pair in pairs), 2) for key in pairs[0][0]}
        for position, name in enumerate(("taskpulse", peer))
    }
    return {
        **sides,
        "rate_ratio": round(median(ours["rate"] / theirs["rate"] for ours, theirs in pairs), 2),
        "cpu_ratio": round(median(theirs["cpu_us"] / ours["cpu_us"] for ours, theirs in pairs), 2),
    }


def ratios(found: dict) -> dict[str, float]:
    """Of the rates, by operation: the lowest over the numbers of connections."""
    return {
        operation: min(figures["rate_ratio"] for figures in by_connections.values())
        for operation, by_connections in found["operations"].items()
    }


def clear(peer: Peer) -> None:
    """No event is left waiting."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tasks_outbox")
        cursor.execute(f"DROP SCHEMA {peer.schema} CASCADE")
        cursor.execute("VACUUM ANALYZE tasks_outbox")
