"""Every event that a test makes is what its published JSON Schema says, and says nothing that the schema does not."""

import json
import os
from unittest import mock

import jsonschema_rs
from django.db import DatabaseError, connection

from taskpulse import event_schemas

# What is in the outbox or, unless its payload was erased, in the log. An event that names no schema is one that a test forged:
# that ours name theirs is tested in test_event_schemas.py.
_MADE = """
SELECT text FROM (
  SELECT convert_from(payload, 'UTF8') AS text FROM tasks_outbox
  UNION ALL SELECT event_data::text FROM task_audit_log
) made WHERE strpos(text, '"dataschema"') > 0
"""


def _closed(schema):
    """With each object that has named properties closed against others: ours make no field that nobody described."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(inner) for name, inner in schema.items()}
    return closed | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else closed


class EventContract:
    def __init__(self):
        self._validators = {
            schema["$id"]: jsonschema_rs.Draft202012Validator(_closed(schema), validate_formats=True)
            for schema in event_schemas.schemas().values()
        }

    def violations(self, event: dict) -> list[str]:
        validator = self._validators.get(event.get("dataschema"))
        if validator is None:
            return [f"there is no schema {event.get('dataschema')}"]
        return [f"{event['type']}: {error.message} at {list(error.instance_path)}" for error in validator.iter_errors(event)]

    def violations_in_database(self) -> list[str]:
        """Of all events that are in the test's database; of none where its transaction is broken."""
        if connection.needs_rollback:
            return []
        try:
            # Playwright's loop runs in this thread until its fixture is torn down; nothing of it touches the connection.
            with mock.patch.dict(os.environ, DJANGO_ALLOW_ASYNC_UNSAFE="1"), connection.cursor() as cursor:
                cursor.execute(_MADE)
                made = [json.loads(text) for (text,) in cursor.fetchall()]
        except DatabaseError:
            return []
        return [violation for event in made for violation in self.violations(event)]
