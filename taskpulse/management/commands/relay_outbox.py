"""`manage.py relay_outbox`: publishes the outbox to Kafka, signs the log's checkpoints and sweeps kept answers, until stopped."""

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from audit.checkpoint_workers import NO_KEY, workers
from taskpulse import least_privilege, worker_database
from taskpulse.companion import Companion
from taskpulse.watchdog import Watchdog
from taskpulse.worker import CannotContinue, Stop
from taskpulse.worker_server import WorkerServer
from tasks.kept_answers import Sweeper
from tasks.relay import Relay


class Command(BaseCommand):
    help = (
        "Publish the outbox to Kafka, and sign the audit log's checkpoints if there is a key for it (AUDIT_SIGNING_KEY), until "
        "stopped. One process is active, others wait (SIGTERM finishes the batch in hand)."
    )

    def handle(self, **_):
        worker_database.limit()
        least_privilege.warn_once()
        stop = Stop().listen()
        relay = Relay(stop)
        beside = [*workers(), ("sweeper of kept answers", Sweeper())]
        companions = [Companion(name, worker, stop) for name, worker in beside]
        try:
            with Watchdog(stop, relay.stuck), WorkerServer(relay, stop, lambda: _notes(companions)):
                self._run(relay, companions, stop)
        except CannotContinue as error:
            raise CommandError(str(error)) from None

    def _run(self, relay: Relay, companions: list[Companion], stop: Stop) -> None:
        for companion in companions:
            companion.start()
        try:
            while not stop.requested:
                if not relay.step():
                    stop.sleep(relay.pause)
        finally:
            stop.requested = True
            relay.close()
            for companion in companions:
                companion.join(Companion.PATIENCE)


def _notes(companions: list[Companion]) -> dict[str, str]:
    """What /readyz says of those beside the relay; a standby's too, since it is to take their place."""
    without_key = {"checkpointer": NO_KEY} if settings.AUDIT_SIGNING_KEY is None else {}
    return without_key | {each.name: trouble for each in companions if (trouble := each.trouble())}
