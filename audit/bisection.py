"""Where in the log a version or a moment lies, found with the indexes that there are.

A subject's versions and times grow with `seq`, and the whole log is in the order of its recording. So the last entry that is
not beyond a bound is found by halving a span of `seq`, one look into an index each time: 24 looks among 10 million entries.
"""
# ruff: noqa: S608 (every part of the SQL is a constant of this code; values are parameters)


def last(name: str, entries: str, within: str) -> str:
    """A recursive WITH query: `SELECT max(seq) FROM name` is the last entry `e`, of those that the condition `entries` takes,
    for which `within` is true; null if there is none. `within` must not become true again after it was false."""
    return f"""{name} (low, high, seq) AS (
  SELECT (SELECT e.seq - 1 FROM task_audit_log e WHERE {entries} ORDER BY e.seq LIMIT 1),
    (SELECT e.seq FROM task_audit_log e WHERE {entries} ORDER BY e.seq DESC LIMIT 1), NULL::bigint
  UNION ALL
  SELECT CASE WHEN p.within THEN h.middle WHEN p.seq IS NULL THEN h.middle ELSE h.low END,
    CASE WHEN NOT p.within THEN p.seq - 1 ELSE h.high END, CASE WHEN p.within THEN p.seq ELSE h.seq END
  FROM (SELECT *, (low + high + 1) / 2 AS middle FROM {name} WHERE low < high) h
  LEFT JOIN LATERAL (
    SELECT e.seq, {within} AS within FROM task_audit_log e
    WHERE {entries} AND e.seq > h.low AND e.seq <= h.middle ORDER BY e.seq DESC LIMIT 1
  ) p ON true
)"""
