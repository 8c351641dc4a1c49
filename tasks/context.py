"""Who acts, and in which request: what every event says besides the change itself.

The context travels in a ContextVar. Inside a transaction it is also told to PostgreSQL (`SET LOCAL`), so that the
database's own capture of a change that no signal saw names the same actor and request.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import orjson

# How many events of a request its line in the log names.
NOTED = 20


@dataclass(frozen=True, slots=True)
class Actor:
    """`type` is user, system (a command), database (raw SQL) or model (an AI); `auth_id` the token or session used."""

    id: str
    name: str
    type: str
    auth_id: str | None = None

    @classmethod
    def of_user(cls, user, auth_id: str | None = None) -> "Actor":
        return cls(str(user.pk), user.get_username(), "user", auth_id)


@dataclass(slots=True)
class Context:
    actor: Actor | None = None
    request_id: str | None = None
    traceparent: str | None = None
    client_ip: str | None = None
    reason: str | None = None
    # The HTTP request, asked for its session's user only when a change is made without `actor`.
    request: object = None
    # The ids of the events that this request committed, the first NOTED of them, and the tasks that they are about.
    event_ids: list[str] = field(default_factory=list)
    task_ids: set[str] = field(default_factory=set)
    events: int = 0

    def note(self, committed: Sequence[tuple]) -> None:
        """Called after the commit with (event id, task id or None) of each event."""
        self.events += len(committed)
        for event_id, task_id in committed[: NOTED - len(self.event_ids)]:
            self.event_ids.append(str(event_id))
            if task_id is not None:
                self.task_ids.add(str(task_id))

    def resolve_actor(self) -> Actor:
        if self.actor is None and self.request is not None:
            user = getattr(self.request, "user", None)
            if user is not None and user.is_authenticated:
                self.actor = Actor.of_user(user, "session")
        return self.actor or _process_actor

    def attributes(self) -> dict[str, str]:
        """The CloudEvents attributes; what is absent is left out."""
        actor = self.resolve_actor()
        attributes = {
            "actorid": actor.id,
            "actorname": actor.name,
            "actortype": actor.type,
            "authid": actor.auth_id,
            "clientip": self.client_ip,
            "reason": self.reason,
            "requestid": self.request_id,
            "traceparent": self.traceparent,
        }
        return {name: value for name, value in attributes.items() if value}


_process_actor = Actor("system:taskpulse", "system:taskpulse", "system")
_current: ContextVar[Context | None] = ContextVar("taskpulse_context", default=None)
# Set while a statement runs whose event the signal writes itself: the database needs no telling then.
_captured: ContextVar[bool] = ContextVar("taskpulse_captured", default=False)


def set_process_actor(command: str) -> None:
    """What this process changes outside a request is recorded as done by `system:<command>`."""
    global _process_actor
    _process_actor = Actor(f"system:{command}", f"system:{command}", "system")


def current() -> Context:
    return _current.get() or Context()


@contextmanager
def use(context: Context):
    """Makes `context` the current one for a block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


class captured:
    """Marks statements whose event the caller writes in the same transaction."""

    def __enter__(self) -> None:
        self._token = _captured.set(True)

    def __exit__(self, *_) -> None:
        _captured.reset(self._token)


_READS = ("SELECT", "SAVEPOINT", "RELEASE", "SET ", "DECLARE", "FETCH", "CLOSE", "EXPLAIN", "SHOW")


def tell_database(execute, sql, params, many, execution):
    """An execute wrapper: before a transaction's first uncaptured write, sets `taskpulse.context` for that transaction."""
    connection = execution["connection"]
    if connection.in_atomic_block and not _captured.get():
        statement = sql if isinstance(sql, str) else str(sql)
        if statement.startswith("ROLLBACK TO"):
            connection.told = None  # a rollback to a savepoint undoes SET LOCAL too
        elif not statement.lstrip().upper().startswith(_READS):
            attributes = current().attributes()
            if connection.told != attributes:
                told = orjson.dumps(attributes).decode()
                execute("SELECT set_config('taskpulse.context', %s, true)", [[told]] if many else [told], many, execution)
                connection.told = attributes
    return execute(sql, params, many, execution)


def watch_connection(sender, connection, **_):
    """Receiver of `connection_created`: installs `tell_database` once for a connection."""
    if connection.vendor == "postgresql" and tell_database not in connection.execute_wrappers:
        connection.execute_wrappers.append(tell_database)
