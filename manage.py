#!/usr/bin/env python3
"""Runs a management command; what it changes is recorded as done by `system:<command>`."""

import logging
import os
import sys
import traceback

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

# Commands whose exit code 1 is a verdict on the log, or that end with 2 where they could not do their work.
_GIVE_VERDICTS = ("verify_audit", "restore_drill", "export_audit")


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "up":
        # Django would read the settings first; they come from what this makes.
        from taskpulse.management.commands.up import Command

        Command().run_from_argv(sys.argv)
        return
    failed = 2 if command in _GIVE_VERDICTS else 1
    if command:
        from taskpulse import database
        from tasks import context

        context.set_process_actor(command)
        database.set_process_command(command)
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        print(f"{command or 'manage.py'}: {error}", file=sys.stderr)
        sys.exit(failed)
    except Exception:
        if not logging.getLogger().handlers:  # not configured yet
            traceback.print_exc()
            sys.exit(failed)
        # Not Python's own way: PostgreSQL's messages quote rows, and a machine may read the log.
        logging.getLogger("taskpulse").critical("%(command)s ended by an exception", {"command": command}, exc_info=True)
        sys.exit(failed)


if __name__ == "__main__":
    main()
