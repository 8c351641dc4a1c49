"""Several statements in one round trip, by libpq's pipeline mode (PostgreSQL documentation 32.5).

A transaction of a write is BEGIN, a statement for the row, one for its event, COMMIT. One by one these are four round trips,
for each of which both sides are woken up. Two are enough where the event needs the row as PostgreSQL made it. Where that is
foretold (tasks/foretold.py) one is, and neither BEGIN nor COMMIT: statements sent together are a transaction by themselves,
which ends with the Sync after them. The first of them goes ahead where nobody else has a use for the processors: PostgreSQL works
on it while the others are made, for which it is woken up once more. psycopg's cursors and its own pipeline would do it too, and
cost more of the processor than the trips do.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

from psycopg import Connection, Error, OperationalError
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, PGconn, PGresult, TransactionStatus
from psycopg.waiting import Ready, Wait

from taskpulse import turns

# So many statements of a connection are prepared: each that is takes memory in its session, and a text that is seldom the same
# gains nothing by it. As many as psycopg keeps.
_MOST_PREPARED = 100


class Statement(NamedTuple):
    """What is sent: the text, its parameters as PostgreSQL reads them, their types and formats."""

    sql: bytes
    values: Sequence
    types: tuple
    formats: Sequence | None
    # Given its result.
    then: Callable[[PGresult], object] | None = None


class RoundTrips:
    """The statements of one connection, for the thread that has it. Each is prepared when it is first sent."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._prepared: dict[tuple, bytes] = {}
        self._named = 0
        # A pooler that lends its sessions lends the same one only for a transaction.
        self._most_prepared = 0 if connection.prepare_threshold is None else _MOST_PREPARED
        self._waiting: list[Statement] = []
        # Of the statement that went ahead: for each result of it, what is to be done then, or None.
        self._ahead: list[Callable[[PGresult], object] | None] = []
        # One for all statements: it remembers how each type is written.
        self._adapter = Transformer.from_context(connection)
        self._deallocate, connection._deallocate = connection._deallocate, self._deallocated

    @property
    def waiting(self) -> int:
        """How many statements are to be sent with the next, or went ahead of it."""
        return len(self._waiting) + bool(self._ahead)

    def send_later(self, sql: str, parameters: Sequence, then: Callable[[list[tuple]], object] | None = None) -> None:
        """The statement goes with the next one of its transaction, or with its COMMIT, and so does its error; `then` is given its
        rows. Raises psycopg.Error for parameters that are no values of PostgreSQL."""
        statement = _statement(self._adapter, sql, parameters)
        if then is not None:
            statement = statement._replace(then=lambda result: then(self._rows(result)))
        if self._is_idle() and not self._waiting and not turns.others_go_on():
            self._send_ahead(statement)
        else:
            self._waiting.append(statement)

    def fetch(self, sql: str, parameters: Sequence) -> list[tuple]:
        """The rows of a statement, sent together with what waits. Raises psycopg.Error of the first that fails."""
        return self._rows(self._send([*self._begun(), *self._taken(), _statement(self._adapter, sql, parameters)]))

    def _rows(self, result: PGresult) -> list[tuple]:
        self._adapter.set_pgresult(result)
        rows = self._adapter.load_rows(0, result.ntuples, tuple)
        self._adapter.set_pgresult(None)
        return rows

    def flush(self) -> None:
        """Sends what waits: another way of sending comes next. Nothing in a transaction that failed."""
        if self.waiting and self._connection.info.transaction_status != TransactionStatus.INERROR:
            self._send([*self._begun(), *self._taken()])

    def commit(self) -> None:
        """Sends what waits, and COMMIT with it where the transaction has begun; where it has not, what goes in one trip is
        committed as a whole or not at all (PostgreSQL documentation, "Pipelining"). Raises psycopg.Error: of a statement, or of a
        deferred constraint; nothing is committed then."""
        if not self._ahead and not self._is_idle():
            self._send([*self._taken(), _COMMIT])
        elif self.waiting:
            self._send(self._taken())

    def forget(self) -> None:
        """The transaction is rolled back: what waits is not sent, what went ahead undone."""
        self._waiting.clear()
        if self._ahead:
            with contextlib.suppress(Error):  # which undid it
                self._send([_BEGIN, _ROLLBACK])

    def _deallocated(self, name: bytes | None):
        """In place of the connection's own: psycopg says DEALLOCATE ALL after a rollback and after DROP, and means ours too."""
        if name is None:
            self._prepared.clear()
        return self._deallocate(name)

    def _begun(self) -> list[Statement]:
        """What has to go first, since more comes in another trip. After a statement that went ahead, it begins before that one
        (PostgreSQL documentation, "Pipelining")."""
        begins = self._ahead or (self._is_idle() and not self._connection.autocommit)
        return [_BEGIN] if begins else []

    def _is_idle(self) -> bool:
        return self._connection.pgconn.transaction_status == TransactionStatus.IDLE

    def _taken(self) -> list[Statement]:
        taken, self._waiting = self._waiting, []
        return taken

    def _send_ahead(self, statement: Statement) -> None:
        """Without a Sync: nothing is answered, and nothing of it stays if none comes. Whether it arrived is found when one does."""
        pgconn = self._connection.pgconn
        pgconn.enter_pipeline_mode()
        self._ahead = list(self._queue(pgconn, statement))
        with contextlib.suppress(OperationalError):
            pgconn.flush()

    def _send(self, statements: list[Statement]) -> PGresult:
        """All in one trip, with what went ahead; the result of the last."""
        connection, pgconn = self._connection, self._connection.pgconn
        ahead, self._ahead = self._ahead, []
        if pgconn.status != ConnStatus.OK:
            raise OperationalError("the connection is closed")
        try:
            if not ahead:
                pgconn.enter_pipeline_mode()
            sent = [*ahead, *(then for statement in statements for then in self._queue(pgconn, statement))]
            pgconn.pipeline_sync()
            results = connection.wait(_results(pgconn))
        except BaseException:
            pgconn.finish()  # in the middle of a pipeline: of no use any more
            raise
        pgconn.exit_pipeline_mode()
        failed = next((result for result in results if result.status == ExecStatus.FATAL_ERROR), None)
        # The error of a deferred constraint is a result more, after those of the statements.
        for then, result in zip(sent, results, strict=failed is None):
            if result is failed:
                break
            if then is not None:
                then(result)
        if failed is not None:
            raise error_from_result(failed, encoding=connection.info.encoding)
        return results[-1]

    def _queue(self, pgconn: PGconn, statement: Statement) -> Iterator[Callable[[PGresult], object] | None]:
        """Yields for each result that the statement will have what is to be done then, or None."""
        sql, values, types, formats, then = statement
        name = self._prepared.get((sql, types))
        if name is None and len(self._prepared) < self._most_prepared:
            self._named += 1
            name = f"taskpulse_{self._named}".encode()
            pgconn.send_prepare(name, sql, types)
            yield partial(self._is_prepared, (sql, types), name)
        if name is None:
            pgconn.send_query_params(sql, values, types, formats)
        else:
            pgconn.send_query_prepared(name, values, formats)
        yield then

    def _is_prepared(self, key: tuple, name: bytes, result: PGresult) -> None:
        self._prepared[key] = name


_BEGIN, _COMMIT, _ROLLBACK = (Statement(sql, (), (), None) for sql in (b"BEGIN", b"COMMIT", b"ROLLBACK"))


def _statement(adapter: Transformer, sql: str, parameters: Sequence) -> Statement:
    if not parameters:
        return Statement(_numbered(sql), (), (), None)
    values = adapter.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
    return Statement(_numbered(sql), values, adapter.types, adapter.formats)


@cache
def _numbered(sql: str) -> bytes:
    """The text with PostgreSQL's own marks of parameters, `$1` for the first `%s`."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", sql).encode()


def _results(pgconn: PGconn) -> Generator[Wait, Ready, list[PGresult]]:
    """For `Connection.wait`: sends what is queued; the result of each command up to the Sync."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results, was_none = [], False
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
            return results
        if result is None and (was_none or pgconn.status != ConnStatus.OK):
            raise _lost(pgconn, results)
        if result is not None:
            results.append(result)
        was_none = result is None


def _lost(pgconn: PGconn, results: list[PGresult]) -> Error:
    """Why there is no Sync: what the server said last (an administrator ends the session), else what libpq says."""
    if results and results[-1].status == ExecStatus.FATAL_ERROR:
        return error_from_result(results[-1])
    return OperationalError(pgconn.get_error_message())
