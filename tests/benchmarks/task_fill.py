"""A team's tasks, made by PostgreSQL: with their words, comments, watchers and entries of the log, without their events.

In the order of time, with the shares of values and the ages of a team's tasks, over the same three years at any size. Nobody
but the script that fills a database looks at it.
"""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

_PEOPLE = 8
_CHUNK = 50_000
# Of the one task that is discussed, and as many entries has it in the log.
_COMMENTS = 200
# SQL of the title and the description of task `n`, from random numbers. Of the words that begin with w the second is half as
# frequent as the first, the third a third, and so on to w999.
SHORT = ("'Refund order ' || n", "'lorem ipsum w' || floor(1000 ^ r7)::int")
_TEXT = (
    "The customer was charged twice after the retry of Friday night, and the refund went out only once. Please check the ledger "
    "of the payment provider against our own invoices, mark those that differ, and tell support before the answer goes out. "
    "Steps: open the order, compare amount and currency, look for a second capture within ten minutes, note the reference. "
    "If the card has expired meanwhile, the amount is returned by transfer; that needs the consent of accounting. "
) * 3
# As long as people write: titles of some 60 characters, descriptions of 100 to 900.
LONG = (
    f"'Refund order ' || n || ': ' || substr('{_TEXT}', 1 + (r7 * 400)::int, 20 + (r3 * 40)::int)",
    f"substr('{_TEXT}', 1 + (r6 * 200)::int, 100 + (r4 * 800)::int)",
)
# `n` of `of` tasks: the share of each value and the ages depend on n / of alone. Nine in ten of the older tasks are completed,
# half of the last tenth; each fifth is nobody's; forty have a rare label, and forty are subtasks of one task, whatever the size.
_TASKS = """
INSERT INTO tasks_task (id, title, description, priority, status, category, labels, assignee_id, created_by_id, parent_id,
  due_at, created_at, updated_at, completed_at, version)
SELECT uuidv7(created - clock_timestamp()), {title}, {description}, priority, status,
  CASE WHEN r5 < 0.8 THEN 'category-' || floor(r5 * 12.499)::int END,
  CASE WHEN n %% (%(of)s / 40) = 3 THEN '{{rare,common}}' WHEN r1 < 0.3 THEN '{{common}}' WHEN r1 < 0.33 THEN '{{medium}}'
    WHEN r1 < 0.334 THEN '{{scarce}}' ELSE '{{}}' END::varchar[],
  CASE WHEN r2 >= 0.2 THEN (%(people)s::bigint[])[1 + floor(r6 * %(count)s)::int] END,
  (%(people)s::bigint[])[1 + floor(r5 * %(count)s)::int],
  CASE WHEN n %% (%(of)s / 40) = 5 THEN %(parent)s::uuid END,
  CASE WHEN r1 < 0.7 THEN created + (1 + r2 * 30) * interval '1 day' END, created,
  created + age * interval '1 day', CASE WHEN status = 'completed' THEN created + age * interval '1 day' END, 1
FROM (
  SELECT n, r1, r2, r3, r4, r5, r6, r7, r3 * least(20, (1 - n::float8 / %(of)s) * 1095) AS age,
    now() - (1 - n::float8 / %(of)s) * interval '1095 days' AS created,
    (ARRAY['low', 'medium', 'medium', 'high'])[1 + floor(r3 * 3.999)::int] AS priority,
    CASE WHEN r4 < (CASE WHEN n < %(of)s * 0.9 THEN 0.9 ELSE 0.5 END) THEN 'completed' WHEN r4 < 0.97 THEN 'pending'
      ELSE 'in_progress' END AS status
  FROM (SELECT n, random() AS r1, random() AS r2, random() AS r3, random() AS r4, random() AS r5, random() AS r6, random() AS r7
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) n) drawn
) made
"""
_PARENT = """
INSERT INTO tasks_task (title, created_at, updated_at, version)
VALUES ('parent', now() - interval '1096 days', now() - interval '1096 days', 1) RETURNING id::text
"""
_WORDS = "INSERT INTO tasks_search SELECT id, task_words(title, labels, category, summary, description) FROM tasks_task"
# Half of the tasks have a comment; one has many. The first person watches each twentieth, the last forty in all, everybody one.
_AROUND = (
    """INSERT INTO tasks_comment (id, task_id, author_id, body, created_at, updated_at, version)
SELECT uuidv7(), id, %(me)s, 'Looked into it.', created_at, created_at, 1 FROM (
  SELECT id, created_at FROM tasks_task WHERE random() < 0.5
  UNION ALL SELECT %(parent)s::uuid, now() FROM generate_series(1, %(comments)s)) commented""",
    """INSERT INTO tasks_watcher (id, task_id, user_id, created_at, updated_at, version)
SELECT uuidv7(), id, person, created_at, created_at, 1 FROM (
  SELECT id, created_at, row_number() OVER (ORDER BY id) AS n FROM tasks_task WHERE id <> %(parent)s::uuid) t,
  LATERAL (SELECT %(me)s AS person WHERE n %% 20 = 0 UNION ALL SELECT %(last)s WHERE n %% (%(of)s / 40) = 7) watching
UNION ALL SELECT uuidv7(), %(parent)s::uuid, person, now(), now(), 1 FROM unnest(%(people)s::bigint[]) person""",
    """INSERT INTO tasks_watched (task_id, user_id, task_created_at)
SELECT t.id, w.user_id, t.created_at FROM tasks_watcher w JOIN tasks_task t ON t.id = w.task_id""",
    """INSERT INTO tasks_labelled (task_id, label, task_created_at)
SELECT t.id, label, t.created_at FROM tasks_task t, unnest(t.labels) label""",
    """INSERT INTO tasks_label (id, name, colour, description, updated_at, version)
SELECT uuidv7(), name, '#808080', '', now(), 1 FROM (
  VALUES ('common'), ('medium'), ('scarce'), ('rare')
  UNION ALL SELECT 'label-' || n FROM generate_series(1, %(of)s / 20) n) l (name)""",
)
AROUND_TABLES = ("tasks_comment", "tasks_watcher", "tasks_watched", "tasks_labelled", "tasks_label")
_LOG = """
INSERT INTO task_audit_log SELECT n, uuidv7(), 'task.updated', 'task', task::text, n, task, %(me)s::text, 'ana', 'user',
  'req-' || n, '{"data": {"changes": {"status": "pending"}}}', now(), now(), 'task-events', 0, n, sha256(n::text::bytea),
  sha256(n::text::bytea)
FROM (SELECT row_number() OVER () AS n, id AS task FROM (
  SELECT %(parent)s::uuid AS id FROM generate_series(1, %(comments)s) UNION ALL SELECT id FROM tasks_task) told) numbered
"""


@dataclass(frozen=True, slots=True)
class Team:
    """Who asks, who watches forty tasks in all, and a task with subtasks, comments, watchers and a history."""

    user_id: int
    seldom: int
    parent: str
    # By what was made.
    seconds: dict[str, float] = field(default_factory=dict)

    def query(self, text: str) -> str:
        return text.format(parent=self.parent, seldom=self.seldom, old=_ago(700), later=_ago(400))


def _ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def fill(tasks: int, text: tuple[str, str] = SHORT, around: bool = True) -> Team:
    """Makes tasks in the present database, and what belongs to them: their words, and `around` comments, watchers, labels and
    entries of the log."""
    from django.contrib.auth.models import User
    from django.db import connection

    people = [User.objects.get_or_create(username=f"planner-{number}")[0].pk for number in range(_PEOPLE)]
    values = {
        "of": tasks, "people": people, "count": _PEOPLE, "comments": _COMMENTS, "me": people[0], "last": people[-1],
    }  # fmt: skip
    seconds = {}
    with connection.cursor() as cursor:
        with _timed(seconds, "tasks"), _bare(cursor, "tasks_task"):
            cursor.execute("SELECT setseed(0.5)")
            cursor.execute(_PARENT)
            (values["parent"],) = cursor.fetchone()
            statement = _TASKS.format(title=text[0], description=text[1])
            for first in range(1, tasks + 1, _CHUNK):
                cursor.execute(statement, {**values, "first": first, "last": min(first + _CHUNK - 1, tasks)})
        with _timed(seconds, "words"), _bare(cursor, "tasks_search"):
            cursor.execute(_WORDS)
        if around:
            with _timed(seconds, "around"), _bare(cursor, *AROUND_TABLES):
                for statement in _AROUND:
                    cursor.execute(statement, values)
            with _timed(seconds, "log"):
                cursor.execute("SELECT audit_ensure_partition(%s)", [tasks + _COMMENTS + 1_000_000])
                cursor.execute(_LOG, values)
        cursor.execute(f"ANALYZE tasks_task, tasks_search, {', '.join(AROUND_TABLES)}, task_audit_log, auth_user")
    return Team(people[0], people[-1], values["parent"], seconds)


@contextmanager
def _timed(seconds: dict[str, float], what: str):
    began = time.monotonic()
    yield
    seconds[what] = round(time.monotonic() - began, 1)


@contextmanager
def _bare(cursor, *tables: str):
    """Without triggers and, but for keys, without indexes, which are made anew at the end: several times as fast."""
    cursor.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index i "
        "WHERE i.indrelid = ANY (%s::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)",
        [list(tables)],
    )
    indexes = cursor.fetchall()
    for table in tables:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    if indexes:
        cursor.execute(f"DROP INDEX {', '.join(name for name, _ in indexes)}")
    yield
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # in a transaction: keys of other tables, which wait for its end
    cursor.execute("SET maintenance_work_mem = '256MB'")
    for _, definition in indexes:
        cursor.execute(definition)
    for table in tables:
        cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
