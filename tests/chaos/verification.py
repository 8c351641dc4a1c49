"""Once the faults are over, the log as an auditor sees it: `manage.py verify_audit`, with the checkpoints on the topic."""

import contextlib
import io
import json
import time
from collections.abc import Callable

import psycopg

from tests.chaos.check import Problems

# Seconds, for a checkpoint of the whole log to be signed and published.
PUBLISHED_TIMEOUT = 90.0
# So that something is signed and published after the last fault, which may have wiped the topic.
_LAST_CHANGE = "INSERT INTO tasks_task (title) VALUES ('the last change')"
_STATE = "SELECT origin, size, (SELECT max(size) FROM audit_checkpoint), (SELECT count(*) FROM tasks_outbox) FROM audit_log"


def make_last_change(session: psycopg.Connection) -> None:
    session.execute(_LAST_CHANGE)


def wait_until_published(session: psycopg.Connection, problems: Problems) -> None:
    """Returns when the newest checkpoint on the topic covers the whole log."""
    from django.conf import settings

    from audit.checkpoint_topic import CheckpointTopic
    from audit.key_file import read
    from taskpulse.installation import SIGNING_KEY

    keys = [read(settings.TASKPULSE_HOME / SIGNING_KEY).verifier]
    end, waiting = time.monotonic() + PUBLISHED_TIMEOUT, "nothing was asked yet"
    while time.monotonic() < end:
        origin, size, signed, outbox = session.execute(_STATE).fetchone()
        waiting = f"{size} entries, {outbox} outbox rows, the newest checkpoint is of {signed}"
        if size == signed and not outbox:
            newest = CheckpointTopic().newest(origin, keys)
            waiting += f", the newest on the topic of {newest.size if newest else 0}"
            if newest is not None and newest.size == size:
                return
        time.sleep(0.5)
    problems.add("not published", f"after {PUBLISHED_TIMEOUT:.0f} s: {waiting}")


def verify(problems: Problems, command: Callable) -> dict:
    """`manage.py verify_audit` finds nothing, and compared the whole log with the topic. Returns its report."""
    out = io.StringIO()
    with contextlib.suppress(SystemExit):  # what is wrong is in the report
        command("verify_audit", "--json", "--jobs", "1", stdout=out)
    report = json.loads(out.getvalue())
    for finding in report["findings"]:
        problems.add("verify_audit", f"{finding['check']}: entry {finding['seq']}: {finding['detail']}")
    if report["pinned_until"] != report["entries"]:
        problems.add("verify_audit", f"{report['entries']} entries, pinned by the topic up to {report['pinned_until']}")
    return report
