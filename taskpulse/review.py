"""The commands with which a person looks at what was set aside, and does the one thing with it that can be done."""

import base64
import json
import sys
from collections.abc import Sequence

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError
from psycopg.errors import InsufficientPrivilege

from taskpulse.printable import printable
from tasks.context import Context, use

_LISTED, _AT_ONCE = 100, 1_000


class ReviewCommand(BaseCommand):
    """`list`, `show ID` and an act (`release`, `discard`) on rows with the key `id`. Acts and looks are recorded by the
    database, as done by this command and with the --reason that is given."""

    act: str  # the subcommand, an imperative
    acted: str  # its past participle
    noun: str  # of what is acted on, in the plural
    payload: tuple[str, ...]  # the columns that a list does not read: up to a megabyte a row

    def rows(self):
        """A QuerySet of what is set aside."""
        raise NotImplementedError

    def describe(self, row) -> dict:
        """What a line says of a row: JSON's types alone."""
        raise NotImplementedError

    def raw(self, row) -> dict[str, bytes | None]:
        """The original bytes; the first of them are what --raw writes."""
        raise NotImplementedError

    def look(self, id: int) -> None:
        raise NotImplementedError

    def do(self, ids: Sequence[int]) -> int:
        """Returns of how many it was done; those that are gone already do not count."""
        raise NotImplementedError

    def add_arguments(self, parser):
        commands = parser.add_subparsers(dest="subcommand", required=True, metavar=f"list|show|{self.act}")
        for name, help_text in (
            ("list", f"list {self.noun}, the oldest first, without their payloads"),
            ("show", "show one with its original bytes; that it was shown is recorded"),
            (self.act, f"{self.act} some; it may be repeated, and each is recorded"),
        ):
            command = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
            form = command.add_mutually_exclusive_group()
            form.add_argument("--json", action="store_true", dest="as_json", help="one JSON object a line")
            if name == "list":
                command.add_argument("--limit", type=int, default=_LISTED, metavar="N", help=f"at most so many (default {_LISTED})")
                command.add_argument("--after", type=int, default=0, metavar="ID", help="those that come after this one")
                continue
            command.add_argument("--reason", help="why; recorded with it")
            if name == "show":
                command.add_argument("id", type=int)
                form.add_argument("--raw", action="store_true", help="write the message's bytes, and nothing else")
            else:
                chosen = command.add_mutually_exclusive_group(required=True)
                chosen.add_argument("ids", type=int, nargs="*", default=[], metavar="ID")
                chosen.add_argument("--all", action="store_true", help="all that are there now")

    def handle(self, *, subcommand, reason=None, **options):
        step = {"list": self._list, "show": self._show}.get(subcommand, self._act)
        try:
            with use(Context(reason=reason)):
                step(options)
        except ProgrammingError as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                raise CommandError("this database role may not: run it as the web role or as the owner of the database") from None
            raise

    def _list(self, options) -> None:
        if options["limit"] < 1:
            raise CommandError(f"--limit: expected 1 or more, got {options['limit']}")
        for row in self.rows().filter(pk__gt=options["after"]).order_by("pk").defer(*self.payload)[: options["limit"]]:
            described = self.describe(row)
            self.stdout.write(json.dumps(described) if options["as_json"] else _line(described))

    def _show(self, options) -> None:
        row = self.rows().filter(pk=options["id"]).first()
        if row is None:
            raise CommandError(f"{options['id']} is not among the {self.noun}")
        self.look(row.pk)
        raw = self.raw(row)
        if options["raw"]:
            sys.stdout.buffer.write(next(iter(raw.values())) or b"")
        elif options["as_json"]:
            encoded = {f"{name}_base64": value and base64.b64encode(value).decode() for name, value in raw.items()}
            self.stdout.write(json.dumps(self.describe(row) | encoded))
        else:
            for name, value in self.describe(row).items():
                self.stdout.write(f"{name:<12} {printable(str(value).encode())}")
            for name, value in raw.items():
                self.stdout.write(f"\n{name}: " + ("none" if value is None else f"{len(value):,} bytes\n{printable(value)}"))

    def _act(self, options) -> None:
        ids = list(self.rows().order_by("pk").values_list("pk", flat=True)) if options["all"] else options["ids"]
        done = sum(self.do(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))
        if options["as_json"]:
            self.stdout.write(json.dumps({self.acted: done}))
        else:
            rest = len(set(ids)) - done
            gone = f", {rest} {'was' if rest == 1 else 'were'} not among the {self.noun}" if rest else ""
            self.stdout.write(f"{done} {self.acted}{gone}")


def _line(described: dict) -> str:
    return "  ".join(printable(str(value).encode()) for value in described.values() if value is not None)
