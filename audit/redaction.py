"""What erasure leaves in the log: the marker in place of an erased payload, and the event that names the erased entries.

An erased entry keeps its digest, its leaf hash and every column that the leaf commits to (ids, type, version, times, place).
The other columns, `CLEARED`, are null, and `event_data` is the marker alone, `{"redacted": "<id>"}`: the id of the event
`audit.redacted` that accounts for it. That event is an entry like any other; its `data.audit.entries` are the spans of
`seq` that it erased, `[[first, last], …]`, all of them before its own. A marker without that event is tampering.
"""

MARKER = "redacted"
EVENT_TYPE = "audit.redacted"
# Of the columns, those that a leaf does not commit to.
CLEARED = ("actor_name", "actor_type", "request_id")


def marker(event_id) -> dict:
    """The `event_data` of an entry that the event `event_id` names."""
    return {MARKER: str(event_id)}


def accounted_by(event_data) -> str | None:
    """The id of the event that a marker refers to; None for what is no marker."""
    if isinstance(event_data, dict) and len(event_data) == 1 and isinstance(event_data.get(MARKER), str):
        return event_data[MARKER]
    return None


def names(event, seq: int) -> bool:
    """Whether an event accounts for the erasure of entry `seq`."""
    try:
        spans = event["data"]["audit"]["entries"]
        return event["type"] == EVENT_TYPE and any(first <= seq <= last for first, last in spans)
    except (KeyError, TypeError, ValueError):
        return False
