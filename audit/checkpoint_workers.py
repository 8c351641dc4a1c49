"""What of the audit log runs beside the relay: the checkpointer."""

import logging

from django.conf import settings

from audit.checkpointer import Checkpointer

logger = logging.getLogger("taskpulse.checkpointer")


def workers() -> list[tuple[str, object]]:
    """Name and worker (`step()`, `pause`, `close()`) of each; none without a signing key, and a warning that says so."""
    if settings.AUDIT_SIGNING_KEY is None:
        logger.warning("no checkpoints of the audit log are signed: AUDIT_SIGNING_KEY is not set (`manage.py audit_key` makes one)")
        return []
    return [("checkpointer", Checkpointer(settings.AUDIT_SIGNING_KEY, settings.AUDIT_PREVIOUS_SIGNING_KEY))]
