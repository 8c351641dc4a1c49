"""The page of `/metrics`, the same for every role: what it counts, and what it is."""

import platform

from django.conf import settings
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from taskpulse import VERSION
from taskpulse.metrics import BUILD, DEPENDENCY_UP, EMBEDDED, UNAPPLIED
from taskpulse.worker_metrics import registry

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Checks of /readyz that are dependencies, by the name that metrics give them.
_DEPENDENCIES = {"database": "postgresql", "migrations": "migrations", "kafka": "kafka"}


def page(checks: dict[str, str | None]) -> bytes:
    """In Prometheus' text format. `checks`: a dependency's name to what is wrong with it, or None."""
    BUILD.set(1, VERSION, platform.python_version(), settings.REVISION)
    EMBEDDED.replace({("postgresql",): settings.DATABASE_IS_EMBEDDED, ("kafka",): not settings.KAFKA_BOOTSTRAP_SERVERS})
    DEPENDENCY_UP.replace({(_DEPENDENCIES[name],): wrong is None for name, wrong in checks.items() if name in _DEPENDENCIES})
    return generate_latest(registry(BUILD, EMBEDDED, DEPENDENCY_UP, UNAPPLIED))
