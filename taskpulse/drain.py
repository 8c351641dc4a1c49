"""Draining: between the request to stop and the stop, readiness says no, so that a load balancer sends nothing more.

The flag lies in memory that the master of the web role shares with its workers: import this before they are forked.
"""

import mmap
import signal
import threading

_flag = mmap.mmap(-1, 1)


def requested() -> bool:
    return _flag[0] == 1


def delay_stop(arbiter, seconds: float) -> None:
    """The first SIGTERM to gunicorn's master starts the draining and stops it `seconds` later; a second one, or SIGINT,
    stops it at once. For gunicorn's hook `when_ready`."""
    stop = arbiter.handle_term

    def on_term():
        if requested() or not seconds:
            _flag[0] = 1
            stop()
        _flag[0] = 1
        arbiter.log.info("draining: not ready from now on, stopping in %s s", seconds)
        again = threading.Timer(seconds, arbiter.SIG_QUEUE.put_nowait, [signal.SIGTERM])
        again.daemon = True
        again.start()

    arbiter.handle_term = on_term
