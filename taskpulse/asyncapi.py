"""The AsyncAPI 3.0 document: which messages stand on which Kafka topic."""

from audit.checkpoint_topic import CONTENT_TYPE as CHECKPOINT_TYPE
from taskpulse import event_schemas
from taskpulse.declarations import DECLARED
from tasks import events

# AsyncAPI 3.0, "Multi Format Schema Object": it names other JSON Schema drafts by this media type.
_SCHEMA_FORMAT = "application/schema+json;version=2020-12"


def document() -> dict:
    kinds = {kind: schema["title"] for kind, schema in event_schemas.schemas().items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "TaskPulse's topics",
            "version": "1",
            "description": "Each committed change is an event on one topic, at least once, and in the order of its subject's "
            "versions unless something was lost and sent again: a consumer drops by `id` what it knows, and orders by `sequence`. "
            "The state of the audit log is on another.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": _default("KAFKA_TOPIC"),
                "title": "Changes",
                "description": "The address is the setting KAFKA_TOPIC.",
                "messages": {_name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in kinds},
            },
            "checkpoints": {
                "address": _default("KAFKA_CHECKPOINT_TOPIC"),
                "title": "Checkpoints of the audit log",
                "description": "The address is the setting KAFKA_CHECKPOINT_TOPIC. One partition, kept for ever.",
                "messages": {"checkpoint": {"$ref": "#/components/messages/checkpoint"}},
                "bindings": {"kafka": {"partitions": 1, "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": -1}}},
            },
        },
        "operations": {
            "publishEvents": {
                "action": "send",
                "channel": {"$ref": "#/channels/events"},
                "summary": "The relay publishes changes.",
            },
            "publishCheckpoints": {
                "action": "send",
                "channel": {"$ref": "#/channels/checkpoints"},
                "summary": "The relay's checkpointer publishes what it signed.",
            },
        },
        "components": {
            "messages": {
                **{_name(kind): _event(kind, title) for kind, title in kinds.items()},
                "checkpoint": _CHECKPOINT,
            }
        },
    }


def _sent(channel: str, summary: str) -> dict:
    return {"action": "send", "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _event(kind: str, title: str) -> dict:
    return {
        "name": kind,
        "title": title,
        "contentType": events.CONTENT_TYPE.decode(),
        "headers": {
            "type": "object",
            "properties": {"content-type": {"const": events.CONTENT_TYPE.decode()}},
            "required": ["content-type"],
        },
        "payload": {"schemaFormat": _SCHEMA_FORMAT, "schema": {"$ref": f"schemas/{event_schemas.file_name(kind)}"}},
        "bindings": {"kafka": {"key": {"type": "string", "description": _KEY}}},
    }


_KEY = "The id of the task that the subject is or belongs to, else the subject's id."
_CHECKPOINT = {
    "name": "checkpoint",
    "title": "A signed checkpoint (C2SP tlog-checkpoint)",
    "contentType": CHECKPOINT_TYPE,
    "payload": {"type": "string", "description": "Origin, size and root of the log, and the signatures over them."},
}


def _name(kind: str) -> str:
    """A component's name, which takes no dot in a reference's last part."""
    return kind.replace(".", "_")


def _default(setting: str) -> str:
    return next(declared.default for declared in DECLARED if declared.name == setting)
