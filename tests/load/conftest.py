import signal
import subprocess
from contextlib import suppress

import psutil
import pytest

from taskpulse.embedded.postgres import EmbeddedPostgres


class OwnPostgres:
    """A server of the test's own: `stop`, `crash`, `freeze`, `thaw`, `start`."""

    def __init__(self, home):
        self._server = EmbeddedPostgres(home)  # durable: what was acknowledged must be there after a crash
        self._server.prepare()
        self._log = home / "postgres.log"
        self.url = self._server.url("taskpulse")

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = self._server.start(
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._server.wait_until_ready(self.process, 60)

    def create_database(self) -> None:
        self._server.create_database("taskpulse")

    def stop(self, number: int = signal.SIGINT) -> None:
        """In order: sessions are ended."""
        self.process.send_signal(number)
        self.process.wait(20)

    def crash(self) -> None:
        self.stop(signal.SIGQUIT)

    def freeze(self) -> None:
        """It answers nothing and closes nothing, as a host that hangs."""
        self._to_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._to_all(signal.SIGCONT)

    def _to_all(self, number: int) -> None:
        server = psutil.Process(self.process.pid)
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@pytest.fixture
def own_postgres(tmp_path, django_db_blocker, monkeypatch):
    """It is migrated, Django's default connection uses it, and DATABASE_URL names it for subprocesses."""
    from django.core.management import call_command
    from django.db import connection, connections

    home = tmp_path / "database"
    home.mkdir()
    server = OwnPostgres(home)
    server.start()
    server.create_database()
    monkeypatch.setenv("DATABASE_URL", server.url)
    before = connection.settings_dict
    there = {"HOST": str(server._server.socket_directory), "PORT": "", "NAME": "taskpulse", "USER": "postgres", "PASSWORD": ""}
    with django_db_blocker.unblock():
        connections.close_all()
        connection.settings_dict = before | there
        try:
            call_command("migrate", verbosity=0)
            yield server
        finally:
            connections.close_all()
            connection.settings_dict = before
            if server.process.poll() is None:
                server.thaw()
                server.crash()
