"""How far the log has come with a task: its version beside the one that is audited.

An outbox row is removed by the transaction that writes its entry, and by nothing else. So what is committed and not in the
outbox is in the log, also where the entries themselves were archived.
"""

import threading
import time
import uuid
from dataclasses import dataclass

from django.db import connection

# Seconds. A request that waits holds a thread of the web role.
LONGEST_WAIT = 1
_POLL = 0.02
# Of one process.
_WAITING = threading.BoundedSemaphore(2)

_STATEMENT = """
SELECT coalesce(t.version, s.version),
  (SELECT min(o.version) - 1 FROM tasks_outbox o WHERE o.subject_type = 'task' AND o.subject_id = %(key)s)
FROM (VALUES (1)) one LEFT JOIN tasks_task t ON t.id = %(id)s
LEFT JOIN tasks_tombstone s ON s.subject_type = 'task' AND s.subject_id = %(key)s
"""


@dataclass(frozen=True, slots=True)
class Watermark:
    """The last committed version of a task, a deletion too, and the last one of which the log has the entry (0: none)."""

    version: int
    audited_version: int


def read(task_id: uuid.UUID) -> Watermark | None:
    """One statement. None for no task of this id, now or ever."""
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, {"id": task_id, "key": str(task_id)})
        version, audited = cursor.fetchone()
    return None if version is None else Watermark(version, version if audited is None else audited)


def wait(task_id: uuid.UUID, seconds: int) -> tuple[Watermark | None, bool]:
    """Waits until the version of the first look is audited, LONGEST_WAIT at most; and whether it did. It does not while two
    others of this process wait: the answer is the first look then."""
    found = read(task_id)
    if found is None or seconds < 1 or not _WAITING.acquire(blocking=False):
        return found, False
    try:
        wanted, end = found.version, time.monotonic() + min(seconds, LONGEST_WAIT)
        while found.audited_version < wanted and (left := end - time.monotonic()) > 0:
            time.sleep(min(_POLL, left))
            found = read(task_id) or found
        return found, True
    finally:
        _WAITING.release()
