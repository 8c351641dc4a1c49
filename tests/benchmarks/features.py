"""What each feature of the API costs a request: processor time of server and PostgreSQL, and rate, with it and without.

A web role for each variant, on the benchmark's database or on a copy that lacks something; each sends and changes nothing
else than the usual one. They take turns within a round, each compared with the usual one of the same round, or with that on a
whole copy of the database where it has a copy of its own, which is written to as little. The usual one takes part twice, and
what that differs by is noise.
"""

import itertools
import random
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from django.conf import settings
from django.db import connection

from tests.benchmarks import api, load, services
from tests.benchmarks.machine import median, postmaster

CONNECTIONS = 8
_ORIGIN = "https://app.example.com"
# No two writes, keys or ids of requests are alike.
_numbers = itertools.count(1)
_WRITES = ("create", "update")
_KEPT_INDEXES = ("tasks_task_pkey", "task_created", "task_parent_created")


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    headers: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    application: str = "taskpulse.wsgi"
    # What a copy of the database lacks.
    dropped: Callable[[psycopg.Connection], list[str]] | None = None
    operations: tuple[str, ...] = api.OPERATIONS
    # The usual service has the feature, and this one is without it.
    without: bool = False

    @property
    def of_its_own(self) -> bool:
        """Whether it needs a service beside the usual one."""
        return bool(self.settings or self.dropped) or self.application != "taskpulse.wsgi"


def list_indexes(session: psycopg.Connection) -> list[str]:
    """Those without which neither the list of the newest nor a change of a parent reads the whole table."""
    found = session.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'tasks_task'").fetchall()
    return [f"DROP INDEX {name}" for (name,) in found if name not in _KEPT_INDEXES]


def words(_) -> list[str]:
    return ["DROP TRIGGER taskpulse_6_search ON tasks_task", "DROP INDEX tasks_search_words"]


USUAL = Variant("usual")
COPY = Variant("(a copy of the database: noise)", dropped=lambda _: [])
VARIANTS = (
    Variant("(the usual one: noise)"),
    Variant("Idempotency-Key", {"Idempotency-Key": f'"order-{load.MARKER}"'}, operations=_WRITES),
    Variant("If-Match", {"If-Match": '"%d"'}, operations=("update",)),
    Variant("gzip (Accept-Encoding)", {"Accept-Encoding": "gzip"}),
    Variant("cross-origin request", {"Origin": _ORIGIN}, {"TASKPULSE_CORS_ORIGINS": _ORIGIN}),
    Variant(
        "X-Request-ID, traceparent",
        {"X-Request-ID": f"order-{load.MARKER}", "traceparent": f"00-4bf92f3577b34da6a3ce929d{load.MARKER}-00f067aa0ba902b7-01"},
    ),
    Variant("token cache off", settings={"TASKPULSE_WEB_TOKEN_CACHE_MS": "0"}),
    Variant("metrics", application="tests.benchmarks.unmetered", without=True),
    Variant("access log", settings={"TASKPULSE_LOG_LEVEL": "WARNING"}, without=True),
    COPY,
    Variant("words of search", dropped=words, without=True),
    Variant("indexes of lists", dropped=list_indexes, without=True),
    Variant("check of events", dropped=lambda _: ["DROP TRIGGER taskpulse_true ON tasks_outbox"], without=True),
    Variant("second line of capture", dropped=lambda _: ["DROP TRIGGER taskpulse_4_capture ON tasks_task"], without=True),
)


@dataclass(slots=True)
class Asked:
    """What is sent to one service: its requests bear the variant's headers and tasks of their own."""

    variant: Variant
    side: api.Side
    # By task, for If-Match: each request of ours raises it by one, and nobody else changes these tasks.
    versions: dict[str, int] = field(default_factory=dict)

    def requests(self, operation: str) -> Callable[[], bytes]:
        template = api.template_of(operation, self.side.token, self.variant.headers)
        marks = template.count(b"%08d")
        if operation not in ("update", "get"):
            return lambda: template % ((next(_numbers),) * marks)
        ids = itertools.cycle(random.sample(self.side.ids, len(self.side.ids)))
        if "If-Match" in self.variant.headers:
            return lambda: self._matching(template, next(ids))
        return lambda: template % (next(ids).encode(), *(next(_numbers),) * marks)

    def _matching(self, template: bytes, task: str) -> bytes:
        self.versions[task] = version = self.versions.get(task, 0) + 1
        return template % (task.encode(), version, next(_numbers))


def run(database_url: str, rounds: int, seconds: float) -> dict:
    """By feature and operation: what it costs in µs of processor time and in percent of the request without it, and of its
    rate; medians of the rounds."""
    token, ids = api.seed()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE tasks_task")
    with ExitStack() as stack:
        own = [one for one in VARIANTS if one.of_its_own]
        urls = {one.name: stack.enter_context(_copy(database_url, one)) for one in own if one.dropped}
        database = postmaster(connection)
        connection.close()
        services_of = {one.name: _serve(stack, one, urls.get(one.name, database_url)) for one in (USUAL, *own)}
        share = len(ids) // (len(VARIANTS) + 1)
        sides = []
        for number, one in enumerate((USUAL, *VARIANTS)):
            port, server = services_of.get(one.name, services_of[USUAL.name])
            its_ids = ids[number * share : (number + 1) * share]
            sides.append(Asked(one, api.Side(port, token, its_ids, server, database)))
        found = _measure(sides, rounds, seconds)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tasks_outbox")
    figures = {one.name: {operation: _cost(found, one, operation) for operation in one.operations} for one in VARIANTS}
    usual_figures = {
        operation: {key: round(median(turn[key] for turn in found[USUAL.name, operation]), 1) for key in ("cpu_us", "rate")}
        for operation in api.OPERATIONS
    }
    return {
        "rounds": rounds, "seconds_a_turn": seconds, "connections": CONNECTIONS, "usual": usual_figures, "features": figures,
    }  # fmt: skip


def _measure(sides: list[Asked], rounds: int, seconds: float) -> dict[tuple[str, str], list[dict]]:
    found: dict = {}
    for number in range(-1, rounds):  # in the first, every worker sees everything
        for operation in api.OPERATIONS:
            turns = [one for one in sides if operation in one.variant.operations]
            start = random.randrange(len(turns))
            for one in turns[start:] + turns[:start]:
                figures = api.measure(one.side, one.requests(operation), CONNECTIONS, seconds)
                if number >= 0:
                    found.setdefault((one.variant.name, operation), []).append(figures)
    return found


def _cost(found: dict, variant: Variant, operation: str) -> dict[str, float]:
    beside, costs = COPY if variant.dropped and variant is not COPY else USUAL, []
    for usual, other in zip(found[beside.name, operation], found[variant.name, operation], strict=True):
        with_it, without = (usual, other) if variant.without else (other, usual)
        cpu = with_it["cpu_us"] - without["cpu_us"]
        costs.append((cpu, cpu / without["cpu_us"] * 100, (1 - with_it["rate"] / without["rate"]) * 100))
    names = ("cpu_us", "cpu_percent", "rate_percent")
    return {name: round(median(values), 1) for name, values in zip(names, zip(*costs, strict=True), strict=True)}


def _serve(stack: ExitStack, variant: Variant, database_url: str) -> tuple[int, psutil.Process]:
    """Its port and process. Half as many threads as usual, since so many services share the server's connections."""
    port, environment = services.free_port(), {"DATABASE_URL": database_url, **variant.settings}
    threads = CONNECTIONS // services.WORKERS
    return port, stack.enter_context(services.taskpulse(port, variant.application, threads, **environment))


@contextmanager
def _copy(database_url: str, variant: Variant):
    """The URL of a copy of the benchmark's database, to which nobody is connected, without what the variant drops."""
    name = settings.DATABASES["default"]["NAME"]
    copy = f"{name}_{VARIANTS.index(variant)}"
    connection.close()
    with psycopg.connect(database_url, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
    url = urlunsplit(urlsplit(database_url)._replace(path=f"/{copy}"))
    try:
        with psycopg.connect(url) as session:
            for statement in variant.dropped(session):
                session.execute(statement)
        yield url
    finally:
        with psycopg.connect(database_url, autocommit=True) as session:
            session.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def print_table(found: dict) -> None:
    heads = "µs of processor (server and PostgreSQL), % more of it, % of the rate lost"
    print(f"\nWhat a feature costs a request, at {CONNECTIONS} connections: {heads}")
    print(f"{'':32}" + "".join(f"{operation:>24}" for operation in api.OPERATIONS))
    usual = "".join(f"{found['usual'][name]['cpu_us']:>10.0f} µs {found['usual'][name]['rate']:>8.0f}/s" for name in api.OPERATIONS)
    print(f"{'the whole request':32}{usual}")
    for feature, by_operation in found["features"].items():
        cells = (
            "{cpu_us:>+10.0f} {cpu_percent:>+6.1f} {rate_percent:>+6.1f}".format(**by_operation[name])
            if name in by_operation
            else f"{'–':>24}"
            for name in api.OPERATIONS
        )
        print(f"{feature:32}" + "".join(cells))
