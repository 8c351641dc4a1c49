"""The web role. `manage.py up` hands its own socket over (`--bind fd://…`); elsewhere PORT says where to listen."""

import gc
import os
import resource
import sys
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from gunicorn.glogging import Logger

from taskpulse import checks, drain, least_privilege, responses, web_database
from taskpulse.worker_metrics import Directory

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "taskpulse.settings")

try:
    logconfig_dict = settings.LOGGING
except ImproperlyConfigured as error:
    # A line for each setting that is wrong, instead of the stack of an application that cannot be loaded.
    sys.exit(f"web: {error}")
if unsafe := checks.errors():
    sys.exit("\n".join(f"web: {found}" for found in unsafe))

# Before prometheus_client is imported: the workers' metrics are in files that any of them can add up.
metrics = Directory.of_this_master()

bind = f"0.0.0.0:{settings.PORT}"
workers = settings.WEB_CONCURRENCY
worker_class = "taskpulse.web.LingeringWorker"
threads = 8
# Loaded once, shared by the workers; one that dies is back at once.
preload_app = True
timeout = 30
# Seconds that requests in flight have to end.
graceful_timeout = settings.WEB_GRACEFUL_SECONDS
keepalive = 5
backlog = 2048
# Open connections a worker: those that wait cost a file descriptor each and no thread. The rest of the limit is for files,
# database connections and the pool's own.
_, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
_files = 8_192 if _most_files == resource.RLIM_INFINITY else min(_most_files, 8_192)
resource.setrlimit(resource.RLIMIT_NOFILE, (_files, _most_files))
worker_connections = _files - min(256, _files // 4)
# Whom to believe about a client's address and scheme is taskpulse/proxies.py's affair alone; gunicorn would trust this machine.
forwarded_allow_ips = ""
secure_scheme_headers = {}
control_socket_disable = True
# Heartbeat files do not belong on a disk that can be slow.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 (gunicorn makes a file of its own there)
proc_name = "taskpulse-web"


class NoAccessLog(Logger):
    """Errors and the server's own life; the line of each request is ours (taskpulse/access.py). gunicorn would compose an
    access line for each request, whether it is shown or not."""

    def access(self, resp, req, environ, request_time):
        pass


logger_class = NoAccessLog


def pre_fork(server, worker):
    worker.place = worker.shares.give(other.place for other in server.WORKERS.values())


def post_fork(server, worker):
    """A request makes some thousands of objects and no cycles: collecting at every 700th is time for nothing."""
    gc.set_threshold(50_000, 20, 50)
    # gunicorn asks for some thirty of its settings in each request, each a method call: plain attributes from here on.
    for name, setting in worker.cfg.settings.items():
        if not hasattr(type(worker.cfg), name):
            vars(worker.cfg)[name] = setting.get()


def when_ready(server):
    """Before the first fork: loads what the first request would, and keeps the garbage collector off the shared pages."""
    from django.urls import get_resolver

    # Every included module is imported by this.
    get_resolver()._populate()
    gc.collect()
    gc.freeze()
    web_database.limit()
    web_database.ask_once()
    least_privilege.warn_once()
    responses.install()
    drain.delay_stop(server, settings.WEB_DRAIN_SECONDS)


def child_exit(server, worker):
    worker.shares.leave(worker.place)
    metrics.sweep(alive=server.WORKERS)


def on_exit(server):
    metrics.remove()
