"""`manage.py relay_outbox`: publishes the outbox to Kafka until stopped."""

from django.core.management.base import BaseCommand

from taskpulse.worker import Stop
from tasks.relay import Relay


class Command(BaseCommand):
    help = "Publish the outbox to Kafka until stopped. One process is active, others wait (SIGTERM finishes the batch in hand)."

    def handle(self, **_):
        stop = Stop().listen()
        relay = Relay(stop)
        try:
            while not stop.requested:
                if not relay.step():
                    stop.sleep(relay.pause)
        finally:
            relay.close()
