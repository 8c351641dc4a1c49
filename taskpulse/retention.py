"""What is thrown away after a time: sessions and tokens that no longer sign anybody in, and old dead letters.

Each can be done with the rights of the web role, and repeated or broken off at any time: what was deleted by then stays so.
"""

from datetime import datetime

from django.contrib.sessions.models import Session

from audit import dead_letter_acts
from audit.models import DeadLetter
from tasks.tokens import ApiToken

# Dead letters of one transaction: each leaves an event, and what is deleted is locked until the commit.
BATCH = 500


def sweep_sessions(now: datetime) -> int:
    """Deletes sessions that have expired; returns how many."""
    return Session.objects.filter(expire_date__lt=now).delete()[0]


def sweep_tokens(before: datetime) -> int:
    """Deletes API tokens that had expired by then; returns how many. Events name a token by its id, which stays in them."""
    return ApiToken.objects.filter(expires_at__lt=before).delete()[0]


def sweep_dead_letters(before: datetime) -> int:
    """Discards dead letters that came before then, each with its event in the audit log; returns how many."""
    old = DeadLetter.objects.filter(received_at__lt=before).order_by("id").values_list("id", flat=True)
    swept = 0
    while ids := list(old[:BATCH]):
        swept += dead_letter_acts.discard(ids)
    return swept
