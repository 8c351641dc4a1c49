#!/usr/bin/env python3
"""Runs a management command; what it changes is recorded as done by `system:<command>`."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")
    if len(sys.argv) > 1:
        from tasks import context

        context.set_process_actor(sys.argv[1])
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
