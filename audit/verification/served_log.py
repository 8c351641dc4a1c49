"""Which tiles, bundles and cosignatures there must be of a log, and which there must not be; and its upper tiles.

Each statement is one snapshot, in which a log that grows has no more tiles than entries.
"""

from collections import Counter
from collections.abc import Iterator

from audit.tiles import HEIGHT, WIDTH
from audit.verification.report import KEPT, Finding, Report
from audit.verification.served import finding, root_of

_UPPER_TILES = 64
# Beyond it no bigint counts the leaves: such a tile is beyond the log as well.
_MOST_NUMBER = 2**63 // WIDTH**2

_UPPER = """
SELECT t.level, t.number, t.hashes, t.root, (
  SELECT string_agg(b.root, ''::bytea ORDER BY b.number) FROM audit_tile b
  WHERE b.log = t.log AND b.level = t.level - 1 AND b.number BETWEEN t.number * 256 AND t.number * 256 + 255)
FROM audit_tile t WHERE t.log = %s AND (t.level, t.number) > (%s, %s) AND t.level > 0 AND t.number < %s
ORDER BY t.level, t.number LIMIT %s
"""
_MISSING = """
SELECT min(n) FROM generate_series(0::bigint, %s - 1) n
WHERE NOT EXISTS (SELECT FROM audit_tile t WHERE t.log = %s AND t.level = %s AND t.number = n AND t.root IS NOT NULL)
"""
# A tile that is not full has no root, and stands at the end of a log that has a successor. Each of level 0 has its bundle.
_BEYOND = """
SELECT t.level, t.number FROM audit_tile t JOIN audit_log l ON l.first_seq = t.log
WHERE t.log = %s AND CASE WHEN t.root IS NOT NULL THEN (t.number::numeric + 1) * 256::numeric ^ (t.level + 1) > l.size
  ELSE t.level > 0 OR t.number <> l.size / 256 OR octet_length(t.hashes) <> l.size %% 256 * 32
    OR NOT EXISTS (SELECT FROM audit_log s WHERE s.first_seq > l.first_seq) END
ORDER BY t.level, t.number LIMIT %s
"""
_UNPAIRED = """
SELECT coalesce(t.number, b.number), b.number IS NULL
FROM (SELECT number FROM audit_tile WHERE log = %s AND level = 0) t
FULL JOIN (SELECT number FROM audit_bundle WHERE log = %s) b USING (number)
WHERE t.number IS NULL OR b.number IS NULL ORDER BY 1 LIMIT %s
"""
_STRAY = """
SELECT 'tiles', min(log) FROM audit_tile WHERE log NOT IN (SELECT first_seq FROM audit_log)
UNION ALL SELECT 'entry bundles', min(log) FROM audit_bundle WHERE log NOT IN (SELECT first_seq FROM audit_log)
"""
_COSIGNED_NOTHING = """
SELECT s.witness, s.log, s.size FROM audit_cosignature s
WHERE NOT EXISTS (SELECT FROM audit_checkpoint c WHERE c.log = s.log AND c.size = s.size) ORDER BY s.log, s.size LIMIT %s
"""


def check_log(connection, log: int, signed: int, seen: Counter) -> Iterator[Finding]:
    """Of the log that begins with entry `log`, whose first `signed` entries have a checkpoint: its tiles were written before."""
    yield from _check_upper(connection, log, seen)
    level, count = 0, signed >> HEIGHT
    while count:
        ((missing,),) = _rows(connection, _MISSING, count, log, level)
        if missing is not None:
            yield finding(log, level, missing, f"the tile {level}/{missing} is missing, and a checkpoint covers it")
        level, count = level + 1, count >> HEIGHT
    for level, number in _rows(connection, _BEYOND, log, KEPT):
        yield Finding("served", f"the tile {level}/{number} of the log that begins with entry {log} holds more than its entries")
    for number, is_tile in _rows(connection, _UNPAIRED, log, log, KEPT):
        text = "the tile has no entry bundle" if is_tile else "the entry bundle has no tile"
        yield finding(log, 0, number, text)


def _check_upper(connection, log: int, seen: Counter) -> Iterator[Finding]:
    """Whether each upper tile holds the roots of those below it, and the root of these."""
    after = (0, _MOST_NUMBER)
    while rows := _rows(connection, _UPPER, log, *after, _MOST_NUMBER, _UPPER_TILES):
        for level, number, hashes, root, below in rows:
            seen["tiles"] += 1
            if hashes != below or root_of(hashes) != root:
                yield finding(log, level, number, f"the tile {level}/{number} does not hold the roots of those below it")
        after = rows[-1][:2]


def check_strays(connection) -> Iterator[Finding]:
    """What is of no log, and what of no checkpoint."""
    for what, log in _rows(connection, _STRAY):
        if log is not None:
            yield Finding("served", f"there are {what} of a log that begins with entry {log}, and no such log")
    for witness, log, size in _rows(connection, _COSIGNED_NOTHING, KEPT):
        text = f"a cosignature by {witness} of {size} entries of the log that begins with entry {log}, and no such checkpoint"
        yield Finding("served", text)


def _rows(connection, statement: str, *parameters) -> list[tuple]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(statement, parameters or None).fetchall()


def describe(report: Report, seen: Counter, share: float) -> None:
    detail = f"{seen['tiles']:,} tiles, {seen['bundles']:,} entry bundles, {seen['cosignatures']:,} cosignatures"
    report.checks["served"].detail = detail
    if seen["unproved"]:
        report.not_proved.append(
            f"That {seen['unproved']:,} cosignatures are by the witnesses that they name: their keys were not given by --key."
        )
    if share < 1:
        report.not_proved.append("What the entry bundles hold that were not looked at, as the entries beside them.")
