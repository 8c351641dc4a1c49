"""`manage.py dead_letters`: messages that are no true events, and their discarding."""

import json

from audit import dead_letter_acts
from audit.models import DeadLetter
from taskpulse.review import ReviewCommand
from tasks.events import rfc3339


class Command(ReviewCommand):
    help = (
        "Look at dead letters, messages on the topic that are no true events, and discard them. A discarded one is gone; the event "
        "of its discarding names its place and the SHA-256 of its value."
    )
    act, acted, noun = "discard", "discarded", "dead letters"
    payload = ("key", "value", "headers")

    def rows(self):
        return DeadLetter.objects.all()

    def describe(self, row):
        return {
            "id": row.pk, "reason": row.reason, "detail": row.detail, "topic": row.topic, "partition": row.partition,
            "offset": row.offset, "received_at": rfc3339(row.received_at), "value_digest": bytes(row.value_digest).hex(),
        }  # fmt: skip

    def raw(self, row):
        value, key = (None if raw is None else bytes(raw) for raw in (row.value, row.key))
        return {"value": value, "key": key, "headers": json.dumps(row.headers).encode()}

    look = staticmethod(dead_letter_acts.look)
    do = staticmethod(dead_letter_acts.discard)
