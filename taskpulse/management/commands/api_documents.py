"""`manage.py api_documents`: makes the documents that describe API and events (docs/api)."""

import json
from pathlib import Path

import yaml
from django.core.management import call_command
from django.core.management.base import BaseCommand

from taskpulse import asyncapi, event_schemas
from taskpulse.api_documents import DIRECTORY


class Command(BaseCommand):
    help = "Makes the documents that describe the API and the events, by default where they are committed and served."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--into", type=Path, default=DIRECTORY, help="the directory")

    def handle(self, *, into: Path, **options):
        (into / "schemas").mkdir(parents=True, exist_ok=True)
        call_command("spectacular", validate=True, fail_on_warn=True, file=str(into / "openapi.yaml"))
        (into / "asyncapi.yaml").write_text(yaml.safe_dump(asyncapi.document(), sort_keys=False, allow_unicode=True, width=120))
        for kind, schema in event_schemas.schemas().items():
            text = json.dumps(schema, indent=2, ensure_ascii=False)
            (into / "schemas" / event_schemas.file_name(kind)).write_text(text + "\n")
