"""`manage.py seed_demo`: plausible tasks, comments and changes, through the same path as everybody's."""

import time

from django.core.management.base import BaseCommand, CommandError

from taskpulse.demo import Demo


class Command(BaseCommand):
    help = "Make plausible tasks, comments and changes. The same --seed makes the same tasks, short of ids and times."

    def add_arguments(self, parser):
        parser.add_argument("--tasks", type=int, default=200, metavar="N", help="how many tasks (default 200)")
        parser.add_argument("--seed", type=int, default=1, metavar="NUMBER", help="of the random choices (default 1)")

    def handle(self, *, tasks, seed, **_):
        if not 1 <= tasks <= 1_000_000:
            raise CommandError(f"--tasks: expected a whole number from 1 to 1000000, got {tasks}")
        began = time.monotonic()
        demo = Demo(seed)
        demo.run(tasks)
        done = f"{demo.created} tasks created, {demo.comments} comments, {demo.changed} changes, {demo.deleted} deleted"
        self.stdout.write(f"{done}, by {len(demo.people)} people, in {time.monotonic() - began:.1f} s")
