"""Writers: they change tasks all the time, over every path, and note what was acknowledged.

A request whose answer was lost may have been carried out or not: it is noted as doubtful and never repeated.
"""

import http.client
import json
import random
import threading
import time
from collections import deque
from urllib.parse import urlsplit

import psycopg
from django.contrib.auth.models import User
from django.db import Error, InterfaceError, InternalError, OperationalError, connection

from tasks import context
from tasks.models import Task
from tests.chaos.record import Change, Record

# Statuses that refuse a request and change nothing: gone meanwhile, or its parent is.
_REFUSED = {404, 409, 412, 422}
_INSERT = """
INSERT INTO tasks_task (id, title, priority, status, description, labels)
VALUES (coalesce(%s, uuidv7()), %s, 'low', 'pending', '', '{}') RETURNING id, version
"""
_PRIORITIES = ("low", "medium", "high")
_STATUSES = ("pending", "in_progress", "completed")


class Tasks:
    """The ids that the writers share; the oldest leave, so that some tasks are busy and others rest."""

    def __init__(self, most: int = 150):
        self._lock = threading.Lock()
        self._ids: deque[str] = deque(maxlen=most)
        self._deleted: deque[str] = deque(maxlen=50)

    def add(self, *ids: str) -> None:
        with self._lock:
            self._ids.extend(ids)

    def some(self, random_: random.Random, count: int = 1) -> list[str]:
        with self._lock:
            return random_.sample(list(self._ids), min(count, len(self._ids)))

    def remove(self, task_id: str) -> None:
        with self._lock:
            if task_id in self._ids:
                self._ids.remove(task_id)
            self._deleted.append(task_id)

    def a_deleted_one(self, random_: random.Random) -> str | None:
        with self._lock:
            return random_.choice(list(self._deleted)) if self._deleted else None


class Writer(threading.Thread):
    """Calls `write` until `stop()`; a fault of the stack is waited out, one of this program is a problem."""

    def __init__(self, name: str, seed: str, tasks: Tasks, record: Record, pause: float):
        super().__init__(name=name, daemon=True)
        self.random = random.Random(seed)
        self.tasks, self.record, self._pause = tasks, record, pause
        self._stop_event = threading.Event()

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                self.write()
            except Exception as error:
                self.record.complain(f"{self.name}: {type(error).__name__}: {error}")
            self._stop_event.wait(self.random.uniform(0, 2 * self._pause))

    def stop(self) -> None:
        self._stop_event.set()

    def write(self) -> None:
        raise NotImplementedError

    def fields(self) -> dict:
        """New values; the title is another each time, so that each write is a change."""
        fields = {
            "title": f'{self.name} {self.random.getrandbits(64):x} „Prüfung“ \u2028 \\ "',
            "priority": self.random.choice(_PRIORITIES),
        }
        if self.random.random() < 0.5:
            fields["status"] = self.random.choice(_STATUSES)
        if self.random.random() < 0.2:
            fields["description"] = "Zeile\n\t" * self.random.randrange(1, 40)
        return fields


class ApiWriter(Writer):
    def __init__(self, url: str, token: str, *arguments):
        super().__init__(*arguments)
        self._host = urlsplit(url).netloc
        self._token = token
        self._connection: http.client.HTTPConnection | None = None

    def write(self) -> None:
        chosen = self.tasks.some(self.random)
        kind = self.random.random()
        if not chosen or kind < 0.3:
            self._create_task(chosen)
        elif kind < 0.92:
            self._update_task(chosen[0])
        else:
            self._delete_task(chosen[0])

    def _create_task(self, chosen: list[str]) -> None:
        fields = self.fields()
        if chosen and self.random.random() < 0.1:
            fields["parent"] = chosen[0]  # refused where that is a subtask itself
        request_id, status, task = self._send("POST", "/api/tasks", fields, entries=1)
        if status == 201:
            self.tasks.add(task["id"])
            self.record.acknowledge([Change(task["id"], 1, "task.created", request_id)], request_id, 1)

    def _update_task(self, task_id: str) -> None:
        method = self.random.choice(("PUT", "PATCH"))
        request_id, status, task = self._send(method, f"/api/tasks/{task_id}", self.fields(), entries=1)
        if status == 200:
            self.record.acknowledge([Change(task_id, task["version"], "task.updated", request_id)], request_id, 1)

    def _delete_task(self, task_id: str) -> None:
        self.tasks.remove(task_id)
        # How many subtasks go with it is not told.
        request_id, status, _ = self._send("DELETE", f"/api/tasks/{task_id}", None, entries=None)
        if status == 204:
            self.record.acknowledge([Change(task_id, None, "task.deleted", request_id)])

    def _send(self, method: str, path: str, body, entries: int | None) -> tuple[str, int, dict | None]:
        request_id = Record.new_request()
        headers = {"Authorization": f"Bearer {self._token}", "X-Request-ID": request_id, "Content-Type": "application/json"}
        status, raw = 0, b""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, timeout=30)
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self._connection.getresponse()
            raw = answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            self._hang_up()
        self.record.answer(f"{method} {status or 'no answer'}")
        if status in (0, 500, 502, 503):
            if entries is not None:
                self.record.doubt(request_id, entries)
            if status == 500:
                self.record.complain(f"{method} {path}: 500, request {request_id}")
            self._hang_up()
            time.sleep(0.05)
            return request_id, 0, None
        if status >= 300 and status not in _REFUSED:
            self.record.complain(f"{method} {path}: {status} {raw[:200]!r}")
        return request_id, status, json.loads(raw) if raw else None

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqlWriter(Writer):
    """Raw SQL, as somebody in psql would: single statements and transactions, some rolled back; deleted ids come back."""

    def __init__(self, database_url: str, *arguments):
        super().__init__(*arguments)
        self._url = database_url
        self._session: psycopg.Connection | None = None

    def write(self) -> None:
        try:
            if self._session is None or self._session.closed:
                self._session = psycopg.connect(self._url, connect_timeout=5)
            changes = []
            with self._session.transaction(force_rollback=self.random.random() < 0.15) as block:
                for _ in range(self.random.choice((1, 1, 1, 3))):
                    changes += self._statement(self._session)
            if not block.force_rollback:
                self.record.acknowledge(changes)
                self.tasks.add(*(change.subject for change in changes if change.kind == "task.created"))
            self.record.answer("SQL rolled back" if block.force_rollback else "SQL committed")
        except psycopg.errors.IntegrityError:
            self.record.answer("SQL refused")  # the id came back twice, or a parent went away
        except psycopg.OperationalError:
            self.record.answer("SQL no answer")
            if self._session is not None:
                self._session.close()
            self._session = None
            time.sleep(0.1)

    def _statement(self, session: psycopg.Connection) -> list[Change]:
        chosen, back = self.tasks.some(self.random), self.tasks.a_deleted_one(self.random)
        title, kind = self.fields()["title"], self.random.random()
        if not chosen or kind < 0.25:
            rows = session.execute(_INSERT, [back if kind < 0.1 else None, title]).fetchall()
            return [Change(str(task_id), version, "task.created") for task_id, version in rows]
        if kind < 0.95:
            rows = session.execute(
                "UPDATE tasks_task SET title = %s WHERE id = %s RETURNING id, version", [title, chosen[0]]
            ).fetchall()
            return [Change(str(task_id), version, "task.updated") for task_id, version in rows]
        rows = session.execute("DELETE FROM tasks_task WHERE id = %s RETURNING id, version + 1", chosen).fetchall()
        return [Change(str(task_id), version, "task.deleted") for task_id, version in rows]


class BulkWriter(Writer):
    """bulk_create, bulk_update, update() and delete() of many tasks, as in `manage.py shell`."""

    def write(self) -> None:
        request_id = Record.new_request()
        one = self.random.choice((self._create, self._create, self._bulk_update, self._update, self._update))
        try:
            with context.use(context.Context(request_id=request_id)):
                changes, entries = one()
        except Error as error:
            self.record.answer("bulk no answer")
            if not isinstance(error, InterfaceError | InternalError | OperationalError):
                raise
            connection.close()
            time.sleep(0.1)
            return
        for change in changes:
            if change.kind == "task.created":
                self.tasks.add(change.subject)
        named = [Change(change.subject, change.version, change.kind, request_id) for change in changes]
        self.record.acknowledge(named, request_id, entries)
        self.record.answer("bulk committed")

    def _create(self) -> tuple[list[Change], int]:
        author = User.objects.order_by("pk").first()
        tasks = [Task(created_by=author, **self.fields()) for _ in range(self.random.randrange(2, 40))]
        Task.objects.bulk_create(tasks)
        return [Change(str(task.pk), 1, "task.created") for task in tasks], len(tasks)

    def _update(self) -> tuple[list[Change], int]:
        chosen = self.tasks.some(self.random, self.random.randrange(1, 40))
        return [], Task.objects.filter(pk__in=chosen).update(category=f"{self.random.getrandbits(48):x}")

    def _bulk_update(self) -> tuple[list[Change], int | None]:
        tasks = list(Task.objects.filter(pk__in=self.tasks.some(self.random, 10)))
        for task in tasks:
            task.title = self.fields()["title"]
        changed = Task.objects.bulk_update(tasks, ["title"])
        return [], changed
