"""Discarding dead letters: they go, and that they went is itself recorded."""

from django.db import transaction
from django.utils import timezone

from audit.models import DeadLetter
from tasks import outbox


def discard(ids) -> int:
    """Deletes dead letters; each leaves an event `audit.dead_letter.discarded` with where it came from and its digest.

    Letters and events go together or not at all. Returns how many were there; idempotent.
    """
    with transaction.atomic():
        letters = DeadLetter.objects.filter(pk__in=ids).select_for_update().order_by("pk")
        letters = list(letters.only("topic", "partition", "offset", "reason", "value_digest"))
        DeadLetter.objects.filter(pk__in=[letter.pk for letter in letters]).delete()
        now = timezone.now()
        outbox.append([_event(letter, now) for letter in letters])
    return len(letters)


def _event(letter: DeadLetter, now) -> outbox.Change:
    document = {
        "offset": letter.offset,
        "partition": letter.partition,
        "reason": letter.reason,
        "topic": letter.topic,
        "value_digest": bytes(letter.value_digest).hex(),
    }
    return outbox.Change("audit.dead_letter", str(letter.pk), "discarded", None, now, None, document, {})
