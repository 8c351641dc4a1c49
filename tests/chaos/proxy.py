"""A TCP proxy in front of PostgreSQL that cuts and delays connections."""

import contextlib
import random
import socket
import threading
import time
from pathlib import Path

_CHUNK = 16_384


class Proxy:
    """Listens on 127.0.0.1:`port` and forwards to the Unix socket `target`, which may come and go."""

    def __init__(self, target: Path):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        # Seconds that each chunk waits before it goes on.
        self.delay = 0.0
        # Whether the next chunk is torn: its first half goes on, then the connection is cut.
        self._tear = threading.Event()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> int:
        """Cuts every connection at once; returns how many."""
        with self._lock:
            sockets = list(self._open)
        for one in sockets:
            _shut(one)
        return len(sockets) // 2

    def tear(self) -> None:
        """Lets half of the next chunk through and cuts its connection then."""
        self._tear.set()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                if self.delay:
                    time.sleep(random.uniform(0, self.delay))
                if self._tear.is_set():
                    self._tear.clear()
                    sink.sendall(chunk[: len(chunk) // 2])
                    break
                sink.sendall(chunk)
        except OSError:
            pass
        for one in (source, sink):
            _shut(one)
            one.close()
        with self._lock:
            self._open -= {source, sink}


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
