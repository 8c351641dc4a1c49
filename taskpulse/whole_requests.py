"""A request that has arrived whole, as an application of WSGI sees it (PEP 3333), and an answer in one piece.

gunicorn reads a request as it comes and sends an answer as it is made, and asks for some thirty of its settings meanwhile. What is
there from its first byte to its last is read at once by httptools, which is Node.js's parser. What is not plain is left on the
socket, for gunicorn to refuse or to understand: nothing is taken here that it would read otherwise, since two that read one request
differently are what smuggling lives on (RFC 9112 §11.2).
"""

import io
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import httptools
from gunicorn import SERVER
from gunicorn.http.wsgi import base_environ

from taskpulse import responses

# Each with what the connection is kept for where the request says nothing of it (RFC 9112 §9.3), and what it may say.
_VERSIONS = {"1.0": ("HTTP/1.0", False), "1.1": ("HTTP/1.1", True)}
_KEEPS = {"close": False, "keep-alive": True}

# Settings of gunicorn's by which it reads a request otherwise.
_READING = ("header_map", "limit_request_field_size", "limit_request_fields", "limit_request_line", "proxy_protocol")


class Request(NamedTuple):
    environ: dict
    # Bytes on the socket.
    length: int
    # Whether the client wants to send another one on the same connection.
    keeps: bool


class _Reader:
    """What httptools calls. A field that comes twice is left to gunicorn; one whose name has a low line is not believed, as there:
    it could pass for another's."""

    __slots__ = ("body", "environ", "fields", "is_plain", "is_whole")

    def __init__(self, environ: dict):
        self.environ, self.body, self.fields = environ, b"", 0
        self.is_plain, self.is_whole = True, False

    def on_url(self, target: bytes) -> None:
        self.is_plain = target.startswith(b"/") and b"%" not in target and b"#" not in target
        uri = target.decode("latin-1")
        self.environ["RAW_URI"] = uri
        self.environ["PATH_INFO"], _, self.environ["QUERY_STRING"] = uri.partition("?")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields += 1
        key = _key(name)
        if key in self.environ:
            self.is_plain = False
        elif key is not None:
            self.environ[key] = value.decode("latin-1").strip(" \t")

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.is_plain = self.is_plain and not self.is_whole
        self.is_whole = True


@lru_cache(256)
def _key(name: bytes) -> str | None:
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


class Requests:
    """Of a worker with these settings of gunicorn's. Where it is told to read otherwise than it usually does, all is left to it."""

    def __init__(self, cfg):
        settings = [cfg.settings[name] for name in _READING]
        self._is_usual = all(found.get() == found.default for found in settings) and not os.environ.get("SCRIPT_NAME")
        self._longest_line = cfg.limit_request_line
        self._usual = base_environ(cfg) | {"SCRIPT_NAME": "", "wsgi.multithread": True, "wsgi.url_scheme": "http"}
        self._most_fields = cfg.limit_request_fields

    def read(self, conn, head: bytes, length: int) -> Request | None:
        """The request of so many bytes that has arrived on gunicorn's connection and stays there; `head` is what of it is known.
        None if it is not plain."""
        if not self._is_usual or not isinstance(conn.client, tuple):
            return None
        data = head[:length] if len(head) >= length else conn.sock.recv(length, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        line_end = data.find(b"\r\n")
        # Several spaces are one to httptools.
        if line_end > self._longest_line or data.count(b" ", 0, line_end) != 2:
            return None
        reader = _Reader(self._environ(conn))
        parser = httptools.HttpRequestParser(reader)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            return None
        environ = reader.environ
        version, keeps = _VERSIONS.get(parser.get_http_version(), (None, None))
        if "HTTP_CONNECTION" in environ:
            keeps = _KEEPS.get(environ["HTTP_CONNECTION"].lower())
        if not (reader.is_plain and reader.is_whole and reader.fields <= self._most_fields) or version is None or keeps is None:
            return None
        environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"] = parser.get_method().decode(), version
        environ["wsgi.input"] = io.BytesIO(reader.body)
        return Request(environ, length, keeps)

    def _environ(self, conn) -> dict:
        environ = self._usual.copy()
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = conn.client[0], str(conn.client[1])
        environ["SERVER_NAME"], environ["SERVER_PORT"] = conn.server[0], str(conn.server[1])
        return environ


def answer(application: Callable, request: Request, keeps: bool) -> bytes:
    """What the application, which is Django's, says to it."""
    said = []
    parts = application(request.environ, lambda *status_and_headers: said.extend(status_and_headers))
    try:
        body = b"".join(parts)
    finally:
        parts.close()
    status, headers = said[:2]
    fields = "\r\n".join([f"{name}: {value}" for name, value in headers])
    if body and "\r\ncontent-length:" not in f"\r\n{fields}".lower():
        fields += f"\r\nContent-Length: {len(body)}"
    connection = "keep-alive" if keeps else "close"
    head = f"HTTP/1.1 {status}\r\nServer: {SERVER}\r\nDate: {responses.date()}\r\nConnection: {connection}\r\n{fields}\r\n\r\n"
    return head.encode("latin-1") + body
