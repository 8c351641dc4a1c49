"""A broker inside librdkafka: the real protocol over TCP on this machine, all in memory.

It forgets everything when it ends, listens on other ports when it starts again, makes a topic on first use with 4
partitions, and keeps some 5 MB of each. That is enough, since the outbox holds whatever is not yet audited.

    python -m taskpulse.embedded.broker HOME
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import confluent_kafka.cimpl

from taskpulse.embedded import unprivileged

FILE = "broker.json"
_PROJECT = Path(__file__).resolve().parent.parent.parent
# Kafka waits 3 s for more members before the first assignment of a group; ours join one after the other anyway.
REBALANCE_DELAY_MS = 100
_PRODUCER = 0  # RD_KAFKA_PRODUCER


class MockCluster:
    """librdkafka's mock cluster (rdkafka_mock.h), by its C interface; `library` offers the rest of `rd_kafka_mock_*`."""

    def __init__(self, brokers: int = 1):
        self.library = _library()
        error = ctypes.create_string_buffer(512)
        conf = ctypes.c_void_p(self.library.rd_kafka_conf_new())
        # The client only carries the cluster: it says nothing and connects to nothing.
        self.library.rd_kafka_conf_set(conf, b"log_level", b"0", error, len(error))
        client = self.library.rd_kafka_new(_PRODUCER, conf, error, len(error))
        if not client:
            raise RuntimeError(f"librdkafka: {error.value.decode(errors='replace')}")
        self.handle = ctypes.c_void_p(self.library.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), brokers))
        if not self.handle:
            raise RuntimeError("librdkafka made no mock cluster")
        self._client = ctypes.c_void_p(client)
        self.bootstrap_servers = self.library.rd_kafka_mock_cluster_bootstraps(self.handle).decode()
        self.library.rd_kafka_mock_group_initial_rebalance_delay_ms(self.handle, REBALANCE_DELAY_MS)

    def close(self) -> None:
        self.library.rd_kafka_mock_cluster_destroy(self.handle)
        self.library.rd_kafka_destroy(self._client)


def _library() -> ctypes.CDLL:
    # A look-up in the extension module also searches the librdkafka that it is linked with, wherever the wheel put it.
    library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.rd_kafka_conf_set.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_cluster_destroy.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_cluster_destroy.restype = None
    library.rd_kafka_destroy.argtypes = [ctypes.c_void_p]
    library.rd_kafka_destroy.restype = None
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.restype = None
    return library


def write_atomically(path: Path, document: dict, mode: int = 0o600) -> None:
    """A reader sees the old document or the new one, also after a crash in between."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def start(home: Path, **popen) -> subprocess.Popen:
    """The broker as a child process, which ends when this thread's process does (Linux); `popen` goes to Popen."""
    command = [sys.executable, "-m", "taskpulse.embedded.broker", str(home)]
    preparation = unprivileged.preparation(None, [])
    return subprocess.Popen(command, preexec_fn=preparation, cwd=_PROJECT, **popen)  # noqa: S603 (our own program)


def is_ready(home: Path, process: subprocess.Popen) -> bool:
    """Whether this very process listens: the file may still be that of an earlier one."""
    try:
        return json.loads((home / FILE).read_text())["pid"] == process.pid
    except (OSError, ValueError, KeyError):
        return False


def serve(home: Path) -> None:
    """Runs until SIGTERM or SIGINT; HOME/broker.json tells where it listens."""
    # Blocked before librdkafka starts its threads, which inherit the mask: only sigwait() takes them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    cluster = MockCluster()
    path = home / FILE
    write_atomically(path, {"bootstrap_servers": cluster.bootstrap_servers, "pid": os.getpid()}, mode=0o644)
    print(f"broker inside librdkafka on {cluster.bootstrap_servers}", flush=True)
    signal.sigwait(signals)
    # The file stays: whoever reads it finds nobody listening, as after a kill, and waits for the next.
    cluster.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
