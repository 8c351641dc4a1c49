"""How the web role's answers reach the socket."""

import functools
import time

from gunicorn import util
from gunicorn.http import wsgi

from taskpulse import problem_types
from taskpulse.admission import message


class WholeResponse(wsgi.Response):
    """The head goes out together with the first bytes of the body: one system call and one packet for most answers, where
    gunicorn takes two of each."""

    _head = b""

    def send_headers(self):
        if not self.headers_sent:
            lines = self.default_headers() + [f"{name}: {value}\r\n" for name, value in self.headers]
            self._head = ("".join(lines) + "\r\n").encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data):
        if self._head and not self.chunked:
            head, self._head = self._head, b""
            self.sock.sendall(head + data)
        else:
            self._flush()
            super()._emit_body(data)

    def sendfile(self, respiter):
        return False  # what is served from files is small and compressed already

    def close(self):
        self.send_headers()
        self._flush()
        super().close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self.sock.sendall(head)


def date() -> str:
    """The header, made once a second."""
    return _date(int(time.time()))


@functools.lru_cache(2)
def _date(second: int) -> str:
    return _http_date(second)


_http_date = util.http_date


def write_error(sock, status: int, reason: str, detail: str) -> None:
    """Of a request that gunicorn cannot read, or whose answer it cannot send: a problem like all others. gunicorn's detail
    quotes what came; the log has it."""
    util.write_nonblock(sock, message(status, problem_types.named(status).meaning, "Connection: close"))


def install() -> None:
    """For gunicorn's workers of this process, which name no classes and functions of their own."""
    wsgi.Response = WholeResponse
    util.http_date = date
    util.write_error = write_error
