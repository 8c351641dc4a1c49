"""`manage.py held`: the changes that Kafka or the audit log could not take, and their release."""

from taskpulse.review import ReviewCommand
from tasks import outbox
from tasks.events import rfc3339
from tasks.models import OutboxEvent


class Command(ReviewCommand):
    help = (
        "Look at held events, true changes that the broker or the audit log refused, and release them when the cause is mended. "
        "They go out again in the order of their versions; one that is refused again is held again."
    )
    act, acted, noun = "release", "released", "held events"
    payload = ("payload",)

    def rows(self):
        return OutboxEvent.objects.filter(held_at__isnull=False)

    def describe(self, row):
        return {
            "id": row.pk, "event_id": str(row.event_id), "subject": f"{row.subject_type}/{row.subject_id}", "version": row.version,
            "attempts": row.attempts, "created_at": rfc3339(row.created_at), "held_at": rfc3339(row.held_at),
            "reason": row.held_reason,
        }  # fmt: skip

    def raw(self, row):
        return {"payload": bytes(row.payload)}

    look = staticmethod(outbox.look)
    do = staticmethod(outbox.release)
