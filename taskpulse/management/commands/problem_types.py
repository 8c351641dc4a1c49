"""`manage.py problem_types`: writes docs/api/problems.md from the table of `taskpulse.problem_types`."""

from django.core.management.base import BaseCommand

from taskpulse.env import BASE_DIR
from taskpulse.problem_types import PATH, TYPES

PAGE = BASE_DIR / "docs" / "api" / "problems.md"
_HEAD = f"""# Problems

Every refusal and every fault is an RFC 9457 problem, `application/problem+json`. `type` is one of these, below `{PATH}/`
of the service that answered, where the same is said. Made by `make problem-types`.

| type | status | title | |
|---|---|---|---|
"""


def page() -> str:
    return _HEAD + "".join(f"| `{found.name}` | {found.status} | {found.title} | {found.meaning} |\n" for found in TYPES)


class Command(BaseCommand):
    help = "Write docs/api/problems.md from the table of problem types."
    requires_system_checks = []

    def handle(self, **_):
        PAGE.write_text(page())
