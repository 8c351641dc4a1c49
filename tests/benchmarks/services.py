"""The services under test as processes: TaskPulse's web role, and the peers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil

WORKERS = 2
EXPRESS = Path(__file__).resolve().parent / "peer_express"
# Bytes of what a service said last: a line for each request is in it.
_SHOWN = 10_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, environment: dict[str, str]):
    """Starts a server, waits until it listens, yields its process and ends it with its children. What it said is shown
    when the block raises."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
        try:
            await_port(process, port)
            time.sleep(1)  # each worker has imported its code
            yield psutil.Process(process.pid)
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read()[-_SHOWN:].decode(errors="replace"))
            raise
        finally:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_port(process: subprocess.Popen, port: int, path: str | None = None) -> None:
    """Returns when the server listens, with a path when it answers there with success. Raises RuntimeError."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(process.args[1:4])} ended with status {process.returncode} at its start")
        try:
            if path is None:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            else:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{' '.join(process.args[1:4])} does not answer on port {port} after 60 s")


def taskpulse(port: int, application: str = "taskpulse.wsgi", threads: int | None = None, **settings: str):
    """gunicorn as `manage.py up` runs it, with its line in the log for each request, and as patient as the peers, which
    refuse nothing; `settings` beside these."""
    command = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}"]
    command += [*([] if threads is None else ["--threads", str(threads)]), application]
    usual = {"WEB_CONCURRENCY": str(WORKERS), "TASKPULSE_LOG_LEVEL": "INFO", "TASKPULSE_WEB_QUEUE_MS": "10000"}
    return running(command, port, usual | settings)


@contextmanager
def fastapi(port: int, database_url: str):
    """uvicorn with uvloop and httptools, as many workers, its access log on, metrics shared between the workers as
    prometheus_client does it."""
    command = [
        sys.executable, "-m", "uvicorn", "tests.benchmarks.peer_fastapi:app", "--host", "127.0.0.1", "--port", str(port),
        "--workers", str(WORKERS),
    ]  # fmt: skip
    url = database_url.replace("postgres://", "postgresql://").replace("postgresql://", "postgresql+asyncpg://", 1)
    with (
        tempfile.TemporaryDirectory(prefix="taskpulse-bench-") as metrics,
        running(command, port, {"PEER_DATABASE_URL": url, "PROMETHEUS_MULTIPROC_DIR": metrics}) as process,
    ):
        yield process, None


def express_is_there() -> bool:
    """Node.js, and what `make bench` installs where npm is."""
    return shutil.which("node") is not None and (EXPRESS / "node_modules").is_dir()


@contextmanager
def express(port: int, database_url: str):
    """Express in as many processes of Node's cluster, in production mode; and the embedded broker, if it sends to that."""
    with _broker() as (servers, broker):
        environment = {
            "NODE_ENV": "production", "PEER_DATABASE_URL": database_url, "PEER_KAFKA_BROKERS": servers, "PEER_PORT": str(port),
            "PEER_KAFKA_TOPIC": f"taskpulse-bench-{os.getpid()}", "PEER_WORKERS": str(WORKERS),
        }  # fmt: skip
        with running(["node", str(EXPRESS / "server.js")], port, environment) as process:
            yield process, broker


@contextmanager
def _broker():
    """The servers that KAFKA_BOOTSTRAP_SERVERS names, else those of an embedded broker and its process."""
    if named := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield named, None
        return
    from taskpulse.embedded import broker

    with tempfile.TemporaryDirectory(prefix="taskpulse-bench-") as home:
        process = broker.start(Path(home), stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while not broker.is_ready(Path(home), process):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the embedded broker does not start")
                time.sleep(0.05)
            yield json.loads((Path(home) / broker.FILE).read_text())["bootstrap_servers"], psutil.Process(process.pid)
        finally:
            _end(process)
