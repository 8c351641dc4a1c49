"""`manage.py redact_audit`: erases a person's data, or a task's, from the audit log, which verifies as before."""

import json
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError, connection
from psycopg.errors import InsufficientPrivilege

from audit import erasure
from tasks.context import Context, use

_LIVE_ACTOR = """
SELECT (SELECT count(*) FROM auth_user WHERE id::text = %(actor)s), (SELECT count(*) FROM (
  SELECT FROM tasks_task WHERE created_by_id::text = %(actor)s OR assignee_id::text = %(actor)s LIMIT 1000) concerned),
  (SELECT count(*) FROM tasks_comment WHERE author_id::text = %(actor)s),
  (SELECT count(*) FROM tasks_watcher WHERE user_id::text = %(actor)s)
"""
_LIVE_TASK = """
SELECT (SELECT count(*) FROM tasks_task WHERE id = %(task)s), (SELECT count(*) FROM tasks_comment WHERE task_id = %(task)s)
"""


class Command(BaseCommand):
    help = (
        "Erase from the audit log and the dead letters what is about or by a person, or about a task: payloads, names, request "
        "ids. Digests and leaves stay, so that the log verifies as before; an entry audit.redacted says what was erased, why, and "
        "who asked. It waits for what is still in the outbox. Run it as the owner of the database; it may be repeated. It cannot "
        "find a person who is named in a text that somebody else wrote: erase that task. Copies remain on the Kafka topic until "
        "its retention ends, and in backups."
    )

    def add_arguments(self, parser):
        scope = parser.add_mutually_exclusive_group(required=True)
        scope.add_argument("--actor", metavar="ID", help="of a person or another actor, as entries show it")
        scope.add_argument("--task", metavar="ID")
        parser.add_argument("--reason", required=True, help="why; recorded for ever, so name no person in it")
        parser.add_argument("--asked-by", required=True, metavar="TEXT", help="who asked: a case number or an office, no name")
        parser.add_argument("--dry-run", action="store_true", help="say what would be erased, and erase nothing")
        parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="for the outbox (default 60)")
        parser.add_argument("--json", action="store_true", dest="as_json", help="the result as one JSON object")

    def handle(self, *, actor, task, reason, asked_by, dry_run, wait, as_json, **_):
        for name, text in (("--reason", reason), ("--asked-by", asked_by)):
            if not text.strip():
                raise CommandError(f"{name}: expected some text")
        scope = erasure.Scope(actor, _task(task))
        try:
            found = erasure.find(scope, self._progress("looked through"))
            self._refuse_names(found.names, reason, asked_by)
            if not dry_run:
                with use(Context(reason=reason)):
                    found.entries = erasure.erase(scope, found.letters, asked_by, wait, self._progress("erased in"))
        except erasure.StillWaiting as error:
            raise CommandError(f"{error}: nothing is left half done, run it again") from None
        except ProgrammingError as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                raise CommandError("this database role may not: run it as the owner of the database") from None
            raise
        self._tell(found, dry_run, as_json)
        self._warn(scope)

    def _tell(self, found, dry_run, as_json) -> None:
        if as_json:
            result = {"dry_run": dry_run, "entries": found.entries, "dead_letters": found.letters}
            self.stdout.write(json.dumps(result | {"first": found.first, "last": found.last}))
            return
        span = f" (from {found.first} to {found.last})" if dry_run and found.entries else ""
        verb = "would be erased" if dry_run else "erased"
        self.stdout.write(f"{found.entries:,} entries{span} and {len(found.letters):,} dead letters {verb}")

    def _warn(self, scope) -> None:
        """What is erased from the log comes back with the next change, while the tables hold it."""
        with connection.cursor() as cursor:
            if scope.task is not None:
                cursor.execute(_LIVE_TASK, {"task": scope.task})
                tasks, comments = cursor.fetchone()
                if tasks:
                    self.stderr.write(
                        f"the task itself is still there, with {comments} comments: their next changes will tell of them again"
                    )
                return
            cursor.execute(_LIVE_ACTOR, {"actor": scope.actor})
            accounts, tasks, comments, watched = cursor.fetchone()
        if accounts:
            self.stderr.write(
                f"the account is still there, and {tasks} tasks are assigned to it or created by it: while it bears the person's "
                "name, their next changes will tell it again"
            )
        if comments or watched:
            self.stderr.write(
                f"{comments} comments by this person and {watched} tasks watched are still in the tables: the API deletes them, "
                "and what their deletion tells is erased by running this again"
            )

    def _refuse_names(self, names, *texts) -> None:
        pattern = erasure.words(names)
        if pattern is not None and any(pattern.search(text) for text in texts):
            raise CommandError("--reason and --asked-by are recorded for ever: they must not name the person whose data are erased")

    def _progress(self, what: str):
        if not self.stderr.isatty():
            return lambda done, of: None

        def show(done: int, of: int) -> None:
            self.stderr.write(f"\r{what} {done:,} of {of:,} entries", ending="\n" if done >= of else "")

        return show


def _task(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise CommandError(f"--task: expected the id of a task (a UUID), got {text!r}") from None
