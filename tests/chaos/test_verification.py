"""What `verify_audit` says of the log after the faults becomes a problem of the run."""

import json
import sys

import pytest

from tests.chaos import verification
from tests.chaos.check import Problems

SOUND = {"entries": 9, "pinned_until": 9, "findings": []}


def verified(report: dict, code: int) -> Problems:
    def command(*arguments, stdout):
        stdout.write(json.dumps(report))
        if code:
            sys.exit(code)

    problems = Problems()
    verification.verify(problems, command)
    return problems


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({}, 0, []),
        ({"findings": [{"check": "entries", "seq": 4, "detail": "missing"}]}, 1, ["verify_audit: entries: entry 4: missing"]),
        ({"pinned_until": None}, 0, ["verify_audit: 9 entries, pinned by the topic up to None"]),
        ({"pinned_until": 8}, 0, ["verify_audit: 9 entries, pinned by the topic up to 8"]),
    ],
    ids=["sound", "tampered", "topic empty", "topic behind"],
)
def test_what_is_found_or_was_not_compared_is_a_problem(change, code, said):
    assert verified(SOUND | change, code).examples == said
