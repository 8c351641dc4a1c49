"""A small log with everything that belongs to it: entries by every path, tiles, and checkpoints that somebody outside keeps."""

import random
from dataclasses import dataclass, field

from django.db import connection

from audit.checkpoint import NEXT_KEY, Checkpoint
from audit.signed_note import Note, SigningKey
from audit.tile_writer import TileWriter, read_head
from audit.verification.report import Report
from audit.verification.verifier import Options, Verifier
from tasks import transitions
from tasks.models import Priority, Task
from tests.recording import messages, record, waiting


@dataclass
class Log:
    """`held`: the checkpoints that somebody outside has, all that were ever signed. `key` is the first one, which they know;
    `retired_at`, the size at which it handed over to `next_key`."""

    key: SigningKey = field(default_factory=lambda: SigningKey.generate("taskpulse/audit"))
    next_key: SigningKey | None = None
    retired_at: int | None = None
    held: list[Checkpoint] = field(default_factory=list)

    def sign(self, key: SigningKey | None = None) -> None:
        """Writes the tiles, and a checkpoint of all entries if there are new ones."""
        head = read_head()
        if self.held and (head.origin, head.size) == (self.held[-1].origin, self.pinned):
            return
        writer = TileWriter(head.log)
        while writer.size < head.size:
            writer.advance(head.size)
        hands_over = self.next_key is not None and self.retired_at is None
        extensions = (f"{NEXT_KEY}{self.next_key.verifier}",) if hands_over else ()
        checkpoint = Checkpoint(head.origin, head.size, writer.edge().root(), extensions)
        store(
            checkpoint, key or (self.next_key if self.retired_at else self.key), head.log, *([self.next_key] if hands_over else [])
        )
        self.retired_at = head.size if hands_over else self.retired_at
        self.held.append(checkpoint)

    def rotate(self) -> None:
        """The next checkpoint hands over to another key."""
        self.next_key = SigningKey.generate(self.key.name)

    @property
    def pinned(self) -> int:
        return self.held[-1].size

    def verify(self, held=None, **options) -> Report:
        outside = self.held if held is None else held
        return Verifier([self.key.verifier], [(checkpoint, "topic") for checkpoint in outside], Options(**options)).run()


def store(checkpoint: Checkpoint, key: SigningKey, log: int = 1, *others: SigningKey) -> None:
    note = bytes(Note(checkpoint.text, tuple(one.sign(checkpoint.text) for one in (key, *others))))
    statement = "INSERT INTO audit_checkpoint (log, size, root, note) VALUES (%s, %s, %s, %s)"
    execute(statement, log, checkpoint.size, checkpoint.root, note)


def execute(statement: str, *parameters) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def some_changes(rng: random.Random, tasks: list[Task], count: int) -> None:
    """Changes by every path: the ORM one by one and in bulk, deletions, raw SQL."""
    for _ in range(count):
        way = rng.random()
        if not tasks or way < 0.3:
            tasks.append(
                Task.objects.create(title=f"task {rng.random()}", labels=rng.sample(["a", "é", '"\\\n'], rng.randint(0, 3)))
            )
            continue
        task = rng.choice(tasks)
        if way < 0.7:
            task.refresh_from_db()
            task.title = f"title {rng.random()} \u2028 \U0001f600"
            task.status = rng.choice([task.status, *transitions.NEXT[task.status]])
            task.description = "x" * rng.choice([0, 10, 3000])
            task.save()
        elif way < 0.8:
            Task.objects.filter(pk__in=[t.pk for t in rng.sample(tasks, min(3, len(tasks)))]).update(
                priority=rng.choice(Priority.values)
            )
        elif way < 0.9:
            execute("UPDATE tasks_task SET summary = %s WHERE id = %s", f"by hand {rng.random()}", task.pk)
        else:
            tasks.remove(task)
            Task.objects.filter(pk=task.pk).delete()


def record_all() -> None:
    connection.check_constraints()  # the database's own capture, which else would come at the end of the test
    record(messages(waiting()))


def grow(count: int) -> None:
    """`count` more entries, one of a task each."""
    Task.objects.bulk_create([Task(title=f"task {number}") for number in range(count)])
    record_all()


def make_log(rng: random.Random, changes: int, rounds: int) -> Log:
    """A log of some `changes` entries, signed at the end of each of `rounds`, from the middle on by a second key; nothing waits."""
    log, tasks = Log(), []
    for number in range(rounds):
        if number and number == rounds // 2:
            log.rotate()
        some_changes(rng, tasks, changes // rounds)
        record_all()
        log.sign()
    return log
