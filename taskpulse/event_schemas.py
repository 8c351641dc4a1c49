"""The JSON Schema of each event that this service makes, by kind of subject: the audited models, and acts without a row."""

from django.apps import apps

from tasks import event_schema
from tasks.audited import AuditedModel

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_DEAD_LETTER = {"offset": _NUMBER, "partition": _NUMBER, "reason": _TEXT, "topic": _TEXT, "value_digest": _TEXT}
_HELD = {"held_at": event_schema.TIME, "reason": _TEXT, "subject": _TEXT, "version": {"type": ["integer", "null"]}}
_NUMBERS = {"type": "array", "items": _NUMBER}
_REDACTED = {
    "actor": _TEXT | {"description": "Whose data was erased, if it was a person's."},
    "asked_by": _TEXT,
    "dead_letters": _NUMBERS,
    "entries": {
        "type": "array",
        "items": _NUMBERS | {"minItems": 2, "maxItems": 2},
        "description": "Spans of `seq`, ends included.",
    },
    "task": event_schema.UUID | {"description": "The task whose data was erased, if it was a task's."},
}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_ARCHIVED = {
    "archives": _SHA256 | {"description": "Of an archive: over it and all before it."},
    "events_until": event_schema.TIME | {"description": "The time of the latest of the archived changes."},
    "file": _TEXT,
    "sha256": _SHA256 | {"description": "The file's."},
    "subjects": _SHA256 | {"description": "Over what is kept of each archived subject."},
}
_STATE = {"size": _NUMBER, "root": _TEXT}
_PREDECESSOR = {
    "origin": _TEXT,
    **_STATE,
    "checkpoint": {"type": ["object", "null"], "properties": _STATE, "required": list(_STATE)},
}
_OPENED = {
    "origin": _TEXT,
    "predecessor": {"type": "object", "properties": _PREDECESSOR, "required": list(_PREDECESSOR)},
}
# Kind of subject: actions, fields, and which of them are always there.
_ACTS = {
    "audit": (["redacted", "archived"], _REDACTED | _ARCHIVED, ["entries"]),
    "audit.dead_letter": (["discarded", "viewed"], _DEAD_LETTER, list(_DEAD_LETTER)),
    "audit.log": (["opened"], _OPENED, list(_OPENED)),
    "audit.held": (["released", "viewed"], _HELD, list(_HELD)),
}


def audited_models() -> list[type[AuditedModel]]:
    return sorted((m for m in apps.get_models() if issubclass(m, AuditedModel)), key=lambda model: model.subject_type)


def schemas() -> dict[str, dict]:
    """By the kind of subject."""
    found = {model.subject_type: event_schema.of_model(model) for model in audited_models()}
    return found | {kind: event_schema.of_act(kind, *act) for kind, act in _ACTS.items()}


def file_name(subject_type: str) -> str:
    return f"{subject_type}-event.v1.json"
