"""What of the audit log runs beside the relay: the checkpointer, and a cosigner for each witness."""

import logging

from django.conf import settings

from audit.checkpointer import Checkpointer
from audit.cosigner import Cosigner

NO_KEY = "no checkpoints of the audit log are signed: AUDIT_SIGNING_KEY is not set (`manage.py audit_key` makes one)"

logger = logging.getLogger("taskpulse.checkpointer")


def workers() -> list[tuple[str, object]]:
    """Name and worker (`step()`, `pause`, `close()`) of each; none without a signing key, and a warning that says so."""
    if settings.AUDIT_SIGNING_KEY is None:
        logger.warning(NO_KEY)
        return []
    checkpointer = Checkpointer(settings.AUDIT_SIGNING_KEY, settings.AUDIT_PREVIOUS_SIGNING_KEY)
    cosigners = [(f"cosigner of {of.key.name}", Cosigner(of, lambda: checkpointer.newest)) for of in settings.AUDIT_WITNESSES]
    return [("checkpointer", checkpointer), *cosigners]
