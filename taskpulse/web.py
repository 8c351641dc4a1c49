"""The web role's worker: gunicorn's threads, with fewer hand-overs between them."""

import select

from gunicorn.workers.gthread import ThreadWorker

# How long a thread waits for the next request of the connection that it just answered, in milliseconds. Longer than a busy
# client takes, shorter than anybody notices who waits for a thread.
_LINGER = 2


class LingeringWorker(ThreadWorker):
    """After an answer, a thread stays with its connection for a moment as long as no other connection waits for a thread.

    gunicorn gives a kept connection back to its main thread after each answer and takes a thread anew for the next
    request: two hand-overs, which cost as much as reading the request.
    """

    def handle(self, conn):
        while True:
            kept = super().handle(conn)
            if kept is not True or not self.alive or not self.tpool._work_queue.empty():
                return kept
            readable = select.poll()
            readable.register(conn.sock, select.POLLIN)
            if not readable.poll(_LINGER):
                return kept
