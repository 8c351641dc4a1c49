"""`manage.py labels`: a label renamed or deleted on any number of tasks."""

from django.core.management.base import BaseCommand, CommandError

from tasks import context, label_changes
from tasks.labels import LABEL_LENGTH
from tasks.models import Label


class Command(BaseCommand):
    help = (
        f"Rename or delete a label on any number of tasks, {label_changes.MOST_TASKS:,} at a time, each change with its event; "
        "also one that has no colour and description. May be repeated: what was stopped is gone on with."
    )

    def add_arguments(self, parser):
        acts = parser.add_subparsers(dest="act", required=True)
        rename = acts.add_parser("rename")
        rename.add_argument("name")
        rename.add_argument("new_name")
        delete = acts.add_parser("delete")
        delete.add_argument("name")
        for act in (rename, delete):
            act.add_argument("--reason", help="why; each event says so")

    def handle(self, *, act, name, reason, new_name=None, **_):
        if act == "rename" and not 1 <= len(new_name) <= LABEL_LENGTH:
            raise CommandError(f"new_name: expected 1 to {LABEL_LENGTH} characters, got {len(new_name)}")
        if act == "rename" and name != new_name and Label.objects.filter(name__in=[name, new_name]).count() == 2:
            raise CommandError(f"there is a label {new_name} already: delete one of the two first")
        with context.use(context.Context(reason=reason)):
            for changed in label_changes.in_steps(name, new_name):
                self.stdout.write(f"{changed} tasks")
