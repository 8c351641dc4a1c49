"""Whether a migration may run beside the version that is being replaced: it must not lock a table for long, and must leave
everything that the older version reads and writes.

Its SQL is what counts, RunSQL included: squawk (https://squawkhq.com/docs/rules) knows which statements lock, scan or
rewrite a table and which break a reader. Three rules are added: a column that the older version cannot leave out of its
INSERT, as Django makes it unless `db_default` is given; rows that are changed in one long transaction; and whatever no
tool can look into.

A migration that is right all the same says so, rule by rule: `reviewed = {"ban-drop-column": "no version since 1.3 …"}`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from django.db import connection

# Taste, not safety; and what `manage.py migrate` itself does (lock_timeout, one transaction a migration).
_TASTE = (
    "ban-char-field", "identifier-too-long", "prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-identity",
    "prefer-robust-stmts", "prefer-text-field", "prefer-timestamptz", "require-timeout-settings",
)  # fmt: skip
_OPAQUE = re.compile(r"(DO|SELECT|CALL|WITH|EXECUTE)\b", re.IGNORECASE)
_ROWS = re.compile(r"(UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_DEFAULT_DROPPED = re.compile(r"ALTER TABLE\s+(\S+)\s+ALTER COLUMN\s+(\S+)\s+DROP DEFAULT", re.IGNORECASE)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
# The bodies of functions, whose semicolons end no statement.
_QUOTED = re.compile(r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'", re.DOTALL)
PYTHON = "-- THIS OPERATION CANNOT BE WRITTEN AS SQL"


class Finding(NamedTuple):
    rule: str
    text: str


def statements(migration, state) -> list[str]:
    """What the migration would execute on a database in this state (ProjectState, altered by this)."""
    with connection.schema_editor(collect_sql=True, atomic=migration.atomic) as editor:
        migration.apply(state, editor, collect_sql=True)
    return editor.collected_sql


def findings(migration, sql: list[str]) -> list[Finding]:
    """What is wrong with it and not reviewed, and each review that is not needed."""
    found = squawk("\n".join(sql), migration.atomic) + added_rules(sql)
    reviewed = getattr(migration, "reviewed", {})
    rules = {finding.rule for finding in found}
    unneeded = [Finding("unneeded-review", f"nothing breaks the rule {rule}") for rule in reviewed if rule not in rules]
    return [finding for finding in found if finding.rule not in reviewed] + unneeded


def squawk(sql: str, in_transaction: bool) -> list[Finding]:
    command = [Path(sys.executable).with_name("squawk"), "--reporter=json", "--pg-version=18", f"--exclude={','.join(_TASTE)}"]
    command += ["--assume-in-transaction"] if in_transaction else []
    result = subprocess.run(command, input=sql, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1) or not result.stdout:
        raise RuntimeError(f"squawk failed: {result.stderr}")
    return [Finding(found["rule_name"], f"line {found['line']}: {found['message']}") for found in json.loads(result.stdout)]


def added_rules(sql: list[str]) -> list[Finding]:
    found = [Finding("opaque", "Python code: no tool can look into it") for statement in sql if PYTHON in statement]
    for statement in _COMMENT.sub("", _QUOTED.sub("''", "\n".join(sql))).split(";"):
        statement = " ".join(statement.split())
        if _OPAQUE.match(statement):
            found.append(Finding("opaque", f"no tool can look into it: {statement[:80]}"))
        if _ROWS.match(statement):
            found.append(Finding("rows-changed", f"locks each row until the migration has ended: {statement[:80]}"))
        if match := _DEFAULT_DROPPED.search(statement):
            table, column = match.groups()
            found.append(
                Finding("default-dropped", f"the older version's INSERT into {table} leaves {column} out: give db_default")
            )
    return found
