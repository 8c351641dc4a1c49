"""`manage.py settings_table`: writes README's table of settings from their declarations."""

from django.core.management.base import BaseCommand, CommandError

from taskpulse.declarations import GROUPS
from taskpulse.env import BASE_DIR, Setting

README = BASE_DIR / "README.md"
BEGIN, END = "<!-- settings: made by `make settings-table` -->\n", "<!-- end of settings -->\n"


def table() -> str:
    lines = ["| setting | default | expected | |", "|---|---|---|---|"]
    for group, settings in GROUPS.items():
        lines += [f"| **{group}** | | | |", *map(_row, settings)]
    return "\n".join(lines) + "\n"


def _row(setting: Setting) -> str:
    default = setting.shown or (f"`{setting.default}`" if setting.default else "required" if setting.required else "–")
    expected = f"{setting.kind.name} {setting.unit}".strip()
    help_text = f"{setting.help}{' (secret)' if setting.secret else ''}"
    return f"| `{setting.name}` | {default} | {expected} | {help_text} |".replace("  ", " ")


def renewed(text: str) -> str:
    """README's text with the table between its markers made anew. Raises ValueError where there are none."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers {BEGIN.strip()!r} and {END.strip()!r} are missing")
    return head + BEGIN + table() + END + tail


class Command(BaseCommand):
    help = "Write the table of settings in README.md from their declarations; with --check only compare."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--check", action="store_true", help="change nothing, fail if the table is out of date")

    def handle(self, *, check, **_):
        text = README.read_text()
        try:
            new = renewed(text)
        except ValueError as error:
            raise CommandError(f"{README.name}: {error}") from None
        if new == text:
            return
        if check:
            raise CommandError(f"{README.name}: the table of settings is not what is declared: make settings-table")
        README.write_text(new)
        self.stdout.write(f"{README.name}: the table of settings is made anew")
