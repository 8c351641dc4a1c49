"""gunicorn's threaded worker, whose main thread also serves short requests: they take turns there (turns.py)."""

from django.db import connections
from gunicorn.workers.gthread import ThreadWorker

from taskpulse.turns import Turns


class TurnTaker(ThreadWorker):
    turns: Turns

    def serve_in_turn(self, job) -> tuple:
        """Serves a request that has arrived, waiting for no client; what it returns is given to `finish_turn`."""
        raise NotImplementedError

    def finish_turn(self, *outcome) -> None:
        raise NotImplementedError

    def run(self):
        self.turns = Turns(self.cfg.threads, self.serve_in_turn, self.finish_turn, self.method_queue.defer)
        connections._connections = self.turns.own
        self._expect_others()
        super().run()

    def wait_for_and_dispatch_events(self, timeout):
        self.turns.look(timeout)

    def _expect_others(self, *_) -> None:
        """What gunicorn's poller has is looked at when there is something."""
        self.turns.expect(self.poller.fileno(), self._dispatch)

    def _dispatch(self, *_) -> None:
        super().wait_for_and_dispatch_events(0)
        self._expect_others()
