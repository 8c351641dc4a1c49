#!/usr/bin/env python3
"""HEALTHCHECK of the image: asks the role in this container whether it lives (`/healthz`); exit status 0 or 1.

The role is read off the container's first process. One that serves nothing (`migrate`, a command of manage.py) is well as
long as it runs.
"""

import http.client
import os
import sys
from pathlib import Path

WORDS = {
    "web": "web",
    "gunicorn": "web",
    "relay": "worker",
    "relay_outbox": "worker",
    "consumer": "worker",
    "consume_events": "worker",
}
PORTS = {"web": ("PORT", "8000"), "worker": ("TASKPULSE_WORKER_PORT", "9464")}
# Seconds.
PATIENCE = 4


def role(words: list[str]) -> str | None:
    """`web`, `worker` or None, from a command line: the role's own, or an init's before it (`docker run --init`)."""
    return next((WORDS[word] for word in words if word in WORDS), None)


def address(kind: str, variables) -> str:
    """Where the role listens; a worker may be told one address of several."""
    told = variables.get("TASKPULSE_WORKER_ADDRESS", "") if kind == "worker" else ""
    return told if told not in {"", "0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104


def wrong(kind: str, variables=os.environ) -> str | None:
    """What is wrong with the role, or None."""
    setting, default = PORTS[kind]
    port = variables.get(setting) or default
    if "://" in port:  # Kubernetes' word for a service of that name
        port = default
    connection = http.client.HTTPConnection(address(kind, variables), int(port), timeout=PATIENCE)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        body = response.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"/healthz on port {connection.port}: {type(error).__name__}: {error}"
    finally:
        connection.close()
    return None if response.status == 200 else f"/healthz: {response.status} {body}"


if __name__ == "__main__":
    kind = role(Path("/proc/1/cmdline").read_text().split("\0"))
    if kind and (reason := wrong(kind)):
        sys.exit(reason)
