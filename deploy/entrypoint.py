#!/usr/bin/env python3
"""Start of the image: the first argument is the role, or any command of manage.py; what follows is handed on to it.

The role takes this process over (execve(2)), so that it is the container's first process and gets its signals itself.
An unknown role ends with status 2 and the list of the known ones.
"""

import os
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANAGE = [sys.executable, "manage.py"]
ROLES = {
    "web": ([sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "taskpulse.wsgi"], "the console and the API"),
    "relay": ([*MANAGE, "relay_outbox"], "outbox to Kafka; one is active, others wait"),
    "consumer": ([*MANAGE, "consume_events"], "Kafka to audit log; several share the partitions"),
    "migrate": ([*MANAGE, "migrate", "--noinput"], "brings the database up to date, and ends"),
}


def management_commands() -> set[str]:
    """The commands of the packages that are here. Found by their files: settings, which may be what is wrong, are not read."""
    places = (ROOT, Path(sysconfig.get_path("purelib")))
    packages = ("*", "django/core", "django/contrib/*")
    files = (file for place in places for package in packages for file in place.glob(f"{package}/management/commands/*.py"))
    return {"help"} | {file.stem for file in files if not file.stem.startswith("_")}


def command_line(arguments: list[str]) -> list[str]:
    """What to run. Raises SystemExit with status 2 for anything but a role or a command."""
    name, *rest = arguments or [""]
    if name in ROLES:
        return ROLES[name][0] + rest
    if name in management_commands():
        return [*MANAGE, name, *rest]
    print(f"unknown role {name!r}; expected" if name else "no role is named; expected", file=sys.stderr)
    for role, (_, what) in ROLES.items():
        print(f"  {role:<10}{what}", file=sys.stderr)
    print("or a command of manage.py: `help` lists them", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    command = command_line(sys.argv[1:])
    os.chdir(ROOT)
    os.execv(command[0], command)  # noqa: S606 (no shell is wanted)
