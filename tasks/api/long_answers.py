"""Answers that are written as they are read, for as long as the client takes."""

import itertools
import threading
from collections.abc import Iterator

from django.http import StreamingHttpResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskpulse.errors import Problem

# At once in a process: each holds a thread of the web role and its database connection.
MOST = 2
places = threading.BoundedSemaphore(MOST)


class _Stream:
    """Gives its place back when it is closed, which Django does with the response, be it read to its end or not."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._first, self._given_back = blocks, [], threading.Lock()

    def begin(self) -> None:
        """Makes the first block, so that what is wrong at once becomes an answer that says so."""
        self._first = list(itertools.islice(self._blocks, 1))

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain(self._first, self._blocks)

    def close(self) -> None:
        self._blocks.close()
        if self._given_back.acquire(blocking=False):
            places.release()

    # A response that nobody answers with, as after a fault on its way out.
    __del__ = close


def answer(blocks: Iterator[bytes], content_type: str, filename: str) -> StreamingHttpResponse:
    """`blocks` is a generator. What it raises later breaks the connection off, without the end that HTTP/1.1 gives a whole
    answer (RFC 9112 §8). Raises Problem (429) while MOST others are under way."""
    if not places.acquire(blocking=False):
        detail = format_lazy(_("{most} long answers are under way; try again later."), most=MOST)
        raise Problem(429, detail, headers={"Retry-After": "10"})
    stream = _Stream(blocks)
    try:
        stream.begin()
    except BaseException:
        stream.close()
        raise
    response = StreamingHttpResponse(stream, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{filename}"'
    response["Cache-Control"] = "no-store"
    return response
