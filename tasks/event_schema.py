"""JSON Schema (2020-12) of the events: the envelope of `tasks/events.py`, and in it the document of one kind of subject.

An audited model's document is described from the model's fields, so that a new model has its schema by being one. A schema
is open: a later version may add attributes, types and fields, which a consumer passes over. What it says is there is there.
"""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from tasks.audited import AuditedModel
from tasks.events import ACTIONS, SOURCE

DIALECT = "https://json-schema.org/draft/2020-12/schema"
UUID = {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}
_TEXT = {"type": "string", "minLength": 1}
_PERSON = {
    "type": "object",
    "description": "A person, by the id that never changes and the name of that moment.",
    "properties": {"id": {"type": "string"}, "name": {"type": "string"}},
    "required": ["id", "name"],
}
# Attributes that an event has or leaves out; never null.
_OPTIONAL = {
    "actorid": _TEXT | {"description": "The person's id, or who acted: `system:COMMAND`, `db:ROLE`."},
    "actorname": _TEXT,
    "actortype": _TEXT | {"description": "`user`, `system` (a command), `database` (raw SQL) or `model` (an AI)."},
    "authid": _TEXT | {"description": "The token or session by which the person acted."},
    "clientip": _TEXT,
    "reason": _TEXT | {"description": "Why: X-Change-Reason of the request."},
    "requestid": _TEXT | {"description": "X-Request-ID of the request."},
    "taskid": UUID | {"description": "The task that the subject is or belongs to; also the message's key."},
    "traceparent": _TEXT | {"description": "W3C Trace Context."},
}


def identifier(subject_type: str) -> str:
    """The `dataschema` of events about a kind of subject. It is in recorded bytes: it never changes."""
    return f"urn:taskpulse:schema:{subject_type}-event.v1.json"


def of_model(model: type[AuditedModel]) -> dict:
    """The schema of the events of an audited model's rows."""
    fields = {field.name: _field(field) for field in sorted(_documented(model), key=lambda field: field.name)}
    document = {"type": "object", "properties": fields, "required": list(fields)}
    changed = {
        "type": "object",
        "description": "What changed; all fields that are not null for a creation, none for a deletion.",
        "properties": {name: _change(schema) for name, schema in fields.items() if name not in model.derived},
    }
    sequence = {"type": "string", "pattern": r"^\d{20}$", "description": "The subject's version, 1, 2, 3 … without a gap."}
    return envelope(model.subject_type, ACTIONS, document, changed, {"sequence": sequence})


def of_act(subject_type: str, actions: list[str], properties: dict, required: list[str]) -> dict:
    """The schema of the events of acts without a row, which have no version."""
    document = {"type": "object", "properties": properties, "required": required}
    return envelope(subject_type, actions, document, {"type": "object", "maxProperties": 0}, {})


def envelope(subject_type: str, actions, document: dict, changed: dict, versioned: dict) -> dict:
    attributes = {
        "data": {
            "type": "object",
            "properties": {
                "changes": changed,
                "nonce": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "Random: it hides what was erased."},
                subject_type: document,
            },
            "required": ["changes", "nonce", subject_type],
        },
        "datacontenttype": {"const": "application/json"},
        "dataschema": {"const": identifier(subject_type)},
        "id": UUID,
        "source": {"const": SOURCE},
        "specversion": {"const": "1.0"},
        "subject": {"type": "string", "pattern": rf"^{subject_type.replace('.', '[.]')}/."},
        "time": TIME,
        "type": {"enum": [f"{subject_type}.{action}" for action in actions]},
        **versioned,
    }
    return {
        "$schema": DIALECT,
        "$id": identifier(subject_type),
        "title": f"CloudEvents 1.0 about {subject_type}",
        "type": "object",
        "properties": dict(sorted((attributes | _OPTIONAL).items())),
        "required": sorted(attributes),
    }


def _documented(model):
    return [field for field in model._meta.concrete_fields if not isinstance(field, models.GeneratedField)]


def _change(schema: dict) -> dict:
    ends = {"from": _or_null(schema), "to": schema}
    return {"type": "object", "properties": ends, "required": list(ends), "additionalProperties": False}


def _or_null(schema: dict) -> dict:
    if isinstance(schema["type"], list):
        return schema  # null is one of them already
    choices = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema | {"type": [schema["type"], "null"]} | choices


def _field(field) -> dict:
    """How a field's value stands in a document. Raises TypeError for a kind that has none yet."""
    if field.null:
        return _or_null(_not_null(field))
    return _not_null(field)


def _not_null(field) -> dict:
    if isinstance(field, models.ForeignKey):
        return _PERSON if field.remote_field.model._meta.label == settings.AUTH_USER_MODEL else UUID
    if field.choices:
        return {"type": "string", "enum": [value for value, _ in field.choices]}
    if isinstance(field, ArrayField):
        return {"type": "array", "items": _not_null(field.base_field), "maxItems": field.size}
    if isinstance(field, (models.CharField, models.TextField)):
        return {"type": "string", "maxLength": field.max_length} if field.max_length else {"type": "string"}
    for kind, schema in _KINDS.items():
        if isinstance(field, kind):
            return schema
    raise TypeError(f"{field}: no JSON Schema for a {type(field).__name__}; add it to tasks/event_schema.py")


_KINDS = {
    models.UUIDField: UUID,
    models.DateTimeField: TIME,
    models.BooleanField: {"type": "boolean"},
    models.IntegerField: {"type": "integer"},
}
