#!/usr/bin/env python3
"""Runs a management command; what it changes is recorded as done by `system:<command>`."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "up":
        # Django would read the settings first; they come from what this makes.
        from taskpulse.management.commands.up import Command

        Command().run_from_argv(sys.argv)
        return
    if command:
        from tasks import context

        context.set_process_actor(command)
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{command or 'manage.py'}: {error}")


if __name__ == "__main__":
    main()
