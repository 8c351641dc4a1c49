"""Probes and metrics of relay and consumer, by HTTP on TASKPULSE_WORKER_PORT, in threads beside the role's own."""

import errno
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from django.conf import settings

from taskpulse import exposition, health
from taskpulse.worker import CannotContinue, Stop
from taskpulse.worker_health import Worker, WorkerHealth

logger = logging.getLogger("taskpulse.probes")

# Connections at a time; more are closed at once, so that nobody can fill our memory. Seconds that one may be silent.
MOST, SILENCE = 16, 5.0

Answer = tuple[int, str, bytes]


class WorkerServer(ThreadingHTTPServer):
    """`with WorkerServer(worker, stop):` serves as long as the block lasts. Raises CannotContinue where it cannot listen.
    `notes()`: what else a person should know, by what it is about."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, worker: Worker, stop: Stop, notes: Callable[[], dict[str, str]] = dict):
        self.health = WorkerHealth(worker, stop, notes)
        self._free = threading.BoundedSemaphore(MOST)
        address, port = settings.WORKER_ADDRESS.strip("[]"), settings.WORKER_PORT
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, port), _Request)
        except OSError as error:
            why = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise CannotContinue(f"cannot listen on port {port} of {address} (TASKPULSE_WORKER_PORT): {why}") from None

    def __enter__(self):
        self.health.begin()
        threading.Thread(target=self.serve_forever, name="probes", daemon=True).start()
        host, port = self.server_address[:2]
        logger.info("probes and metrics on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def process_request(self, request, client_address):
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started: socketserver closes the connection
            self._free.release()
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        logger.exception("a probe was not answered")


class _Request(BaseHTTPRequestHandler):
    timeout = SILENCE
    server_version, sys_version = "taskpulse", ""

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        answer = _ROUTES.get(path, _unknown)
        status, kind, body = answer(self.server.health)
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        except OSError as error:  # whoever asked has gone
            logger.debug("%s: %s", path, error)

    do_HEAD = do_GET

    def log_message(self, form, *arguments):
        logger.debug(form, *arguments)


def _live(of: WorkerHealth) -> Answer:
    return health.answer(of.live())


def _ready(of: WorkerHealth) -> Answer:
    return health.answer(*of.ready())


def _metrics(of: WorkerHealth) -> Answer:
    return HTTPStatus.OK, exposition.CONTENT_TYPE, of.metrics()


def _unknown(of: WorkerHealth) -> Answer:
    return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"expected /healthz, /readyz or /metrics\n"


# The names that the web role answers to, too.
_ROUTES: dict[str, Callable[[WorkerHealth], Answer]] = {
    "health": _live, "healthz": _live, "ready": _ready, "readyz": _ready, "metrics": _metrics,
}  # fmt: skip
