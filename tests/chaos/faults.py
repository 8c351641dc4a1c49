"""The faults: each does one thing to the stack, says what, and undoes what would stay."""

import contextlib
import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable

import psutil
import psycopg
from confluent_kafka import KafkaException

from tests.chaos.messages import Messages
from tests.chaos.stack import Kafka, Stack


class NotNow(Exception):
    """There is nothing to do this fault to at the moment: another one is taken."""


class Faults:
    """`strike()` does a random fault and returns (name, what was done); `mend(now)` undoes what is due."""

    def __init__(self, stack: Stack, messages: Messages, seed: str):
        self._stack, self._messages = stack, messages
        self._random = random.Random(seed)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._tickets = itertools.count()
        self._broker_is_down = False
        self._broker_start: threading.Thread | None = None
        self._session: psycopg.Connection | None = None
        self._weights: dict[Callable[[], str], int] = {
            self._kill_web_worker: 10,
            self._kill_web_master: 4,
            self._kill_relay: 12,
            self._kill_consumer: 12,
            self._kill_postmaster: 4,
            self._kill_backend: 5,
            self._kill_supervisor: 2,
            self._freeze: 8,
            self._replace_frozen_relay: 4,
            self._terminate_sessions: 10,
            self._cut_proxy: 7,
            self._tear_proxy: 6,
            self._delay_proxy: 4,
            self._copy_messages: 12,
            self._forge_messages: 10,
            self._kill_broker: 5,
            self._pause_broker: 4,
            self._wipe_broker: 3,
            self._delete_topic: 2,
            self._add_partition: 2,
        }

    def strike(self) -> tuple[str, str]:
        """Raises RuntimeError when no fault can be done for a minute."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            self.mend(time.monotonic())
            self._stack.check_up()
            (fault,) = self._random.choices(list(self._weights), list(self._weights.values()))
            try:
                return fault.__name__.removeprefix("_").replace("_", " "), fault()
            except (NotNow, psutil.NoSuchProcess, psycopg.OperationalError, KafkaException):
                time.sleep(0.05)
        raise RuntimeError("no fault can be done: the stack does not come back")

    def pause(self) -> float:
        """Seconds until the next one: often none, so that faults meet."""
        return self._random.choice((0.0, 0.05, 0.2, 0.5, 1.0))

    def mend(self, until: float) -> None:
        while self._later and self._later[0][0] <= until:
            heapq.heappop(self._later)[2]()

    def mend_all(self) -> None:
        self.mend(float("inf"))
        if self._broker_start is not None:
            self._broker_start.join()

    def _after(self, seconds: float, undo: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._tickets), undo))

    def _pick(self, role: str) -> psutil.Process:
        found = self._stack.processes(role)
        if not found:
            raise NotNow
        return self._random.choice(found)

    def _kill(self, role: str) -> str:
        process = self._pick(role)
        process.kill()
        return f"{role} {process.pid}: SIGKILL"

    def _kill_web_worker(self) -> str:
        return self._kill("web worker")

    def _kill_web_master(self) -> str:
        return self._kill("web master")

    def _kill_relay(self) -> str:
        return self._kill("relay")

    def _kill_consumer(self) -> str:
        return self._kill("consumer")

    def _kill_postmaster(self) -> str:
        return self._kill("postmaster")

    def _kill_backend(self) -> str:
        return self._kill("backend")

    def _kill_supervisor(self) -> str:
        """All that `manage.py up` runs goes with it, in one instant."""
        if self._stack.up is None:
            raise NotNow
        self._stack.kill_up()
        if self._stack.kafka is None:
            self._messages.forget_certainty()
        self._after(self._random.uniform(0, 1), self._stack.start_up)
        return "manage.py up: SIGKILL"

    def _freeze(self) -> str:
        role, seconds = self._random.choice(("relay", "consumer", "web worker")), self._random.choice((0.3, 1.0, 2.0, 8.0))
        process = self._pick(role)
        self._suspend(process, seconds)
        return f"{role} {process.pid}: SIGSTOP for {seconds} s"

    def _suspend(self, process: psutil.Process, seconds: float) -> None:
        process.suspend()
        self._after(seconds, lambda: _resume(process))

    def _replace_frozen_relay(self) -> str:
        """The relays freeze and their sessions end, so that another takes over; then they wake with a batch in hand."""
        process = self._pick("relay")
        self._suspend(process, self._random.uniform(1, 3))
        count = self._end_sessions("application_name = 'taskpulse relay lock'")
        return f"relay {process.pid}: SIGSTOP, {count} lock sessions ended"

    def _terminate_sessions(self) -> str:
        where = self._random.choice(("state <> 'idle'", "true", "query LIKE '%audit_log%'", "query LIKE '%tasks_outbox%'"))
        return f"{self._end_sessions(where)} sessions ended ({where})"

    def _end_sessions(self, where: str) -> int:
        session = self._database()
        rows = session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND ({where})"
        ).fetchall()
        return len(rows)

    def _database(self) -> psycopg.Connection:
        if self._session is None or self._session.closed or self._session.broken:
            self._session = psycopg.connect(self._stack.database_url, connect_timeout=5, autocommit=True)
        return self._session

    def _cut_proxy(self) -> str:
        return f"{self._stack.proxy.cut()} connections to PostgreSQL cut"

    def _tear_proxy(self) -> str:
        self._stack.proxy.tear()
        return "the next bytes to or from PostgreSQL cut in half"

    def _delay_proxy(self) -> str:
        self._stack.proxy.delay = self._random.uniform(0.01, 0.2)
        self._after(self._random.uniform(0.5, 3), self._end_delay)
        return f"up to {self._stack.proxy.delay * 1000:.0f} ms of delay"

    def _end_delay(self) -> None:
        self._stack.proxy.delay = 0.0

    def _copy_messages(self) -> str:
        return self._produced(self._messages.copy(self._database()))

    def _forge_messages(self) -> str:
        return self._produced(self._messages.forge(self._database()))

    def _produced(self, what: str) -> str:
        if self._broker_is_down or what.startswith("0 "):
            raise NotNow
        return what

    def _kill_broker(self) -> str:
        kafka = self._stoppable()
        if kafka is None:
            self._messages.forget_certainty()
            return self._kill("broker") + ", comes back empty"
        kafka.kill()
        self._start_broker_after(self._random.uniform(0, 2))
        return "broker: SIGKILL"

    def _pause_broker(self) -> str:
        kafka, seconds = self._stoppable(), self._random.uniform(0.5, 5)
        if kafka is None:
            self._suspend(self._pick("broker"), seconds)
        else:
            kafka.stop()
            self._start_broker_after(seconds)
        return f"broker stopped for {seconds:.1f} s"

    def _wipe_broker(self) -> str:
        kafka = self._stoppable()
        if kafka is None:
            return self._kill_broker()
        kafka.wipe()
        self._messages.forget_certainty()
        self._start_broker_after(self._random.uniform(0, 2))
        return "broker wiped, comes back empty"

    def _stoppable(self) -> Kafka | None:
        """None: the embedded broker, a process like the others."""
        kafka = self._stack.kafka
        if self._broker_is_down or (kafka is not None and not kafka.may_stop):
            raise NotNow
        return kafka

    def _delete_topic(self) -> str:
        self._running_kafka().delete_topic(self._stack.topic)
        self._messages.forget_certainty()
        return "topic deleted"

    def _add_partition(self) -> str:
        return f"partitions added: {self._running_kafka().add_partition(self._stack.topic)}"

    def _running_kafka(self) -> Kafka:
        if self._broker_is_down or self._stack.kafka is None:
            raise NotNow
        return self._stack.kafka

    def _start_broker_after(self, seconds: float) -> None:
        self._broker_is_down = True
        self._after(seconds, self._start_broker)

    def _start_broker(self) -> None:
        """It takes seconds, in which the other faults go on."""
        self._broker_start = threading.Thread(target=self._starting, daemon=True)
        self._broker_start.start()

    def _starting(self) -> None:
        self._stack.kafka.start()
        self._broker_is_down = False


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # killed meanwhile
        process.resume()
