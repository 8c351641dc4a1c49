"""`manage.py consume_events [HANDLER]`: reads the topic and runs a handler on it."""

from contextlib import closing

from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import import_string

from taskpulse import least_privilege, worker_database
from taskpulse.event_consumer import EventConsumer, Interrupted
from taskpulse.kafka import NoBroker
from taskpulse.watchdog import Watchdog
from taskpulse.worker import CannotContinue, Stop
from taskpulse.worker_server import WorkerServer

HANDLERS = {"audit": "audit.recorder.Recorder"}


class Command(BaseCommand):
    help = "Consume the task events and run a handler on them until stopped (SIGTERM finishes the batch in hand)."

    def add_arguments(self, parser):
        parser.add_argument("handler", nargs="?", default="audit", choices=sorted(HANDLERS))
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument("--once", action="store_true", help="handle one batch, waiting up to --wait seconds for it, and exit")
        mode.add_argument("--until-caught-up", action="store_true", help="handle what the topic holds at the start, and exit")
        parser.add_argument("--wait", type=float, default=30.0, metavar="SECONDS", help="with --once (default 30)")

    def handle(self, *, handler, once, until_caught_up, wait, **_):
        worker_database.limit()
        least_privilege.warn_once()
        stop = Stop().listen()
        consumer = EventConsumer(import_string(HANDLERS[handler])(), stop)
        try:
            with Watchdog(stop):
                if once or until_caught_up:
                    self._run_to_an_end(consumer, once, wait)
                else:
                    with WorkerServer(consumer, stop), closing(consumer):
                        consumer.open()
                        consumer.run()
        except Interrupted:
            self.stderr.write("stopped while a batch was being tried again: it is not committed")
        except (CannotContinue, NoBroker) as error:
            raise CommandError(str(error)) from None

    def _run_to_an_end(self, consumer: EventConsumer, once: bool, wait: float) -> None:
        with closing(consumer):
            consumer.open()
            if once:
                self.stdout.write(f"handled {consumer.run_once(wait)} messages")
            else:
                self.stdout.write("caught up" if consumer.run_until_caught_up() else "stopped before it had caught up")
