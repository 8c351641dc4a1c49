"""How answers reach the socket: in as few pieces as can be, and complete."""

import io

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request

from taskpulse.responses import WholeResponse, install


class Socket:
    def __init__(self):
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def answer(head: str, status: str, headers: list, pieces: list[bytes]) -> list[bytes]:
    """What goes out when an application answers the request of that head so."""
    from gunicorn.http.unreader import IterUnreader

    socket, config = Socket(), Config()
    request = Request(config, IterUnreader([f"{head}\r\nHost: localhost\r\n\r\n".encode()]), ("127.0.0.1", 1))
    response = WholeResponse(request, socket, config)
    write = response.start_response(status, headers)
    for piece in pieces:
        write(piece)
    response.close()
    return socket.sent


def test_head_and_body_are_one_piece():
    [sent] = answer("GET / HTTP/1.1", "200 OK", [("Content-Length", "2"), ("ETag", '"1"')], [b"{}"])
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'\r\nETag: "1"\r\n' in sent
    assert sent.endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(("head", "status"), [("HEAD / HTTP/1.1", "200 OK"), ("GET / HTTP/1.1", "304 Not Modified")])
def test_an_answer_without_a_body_goes_out_too(head, status):
    [sent] = answer(head, status, [("Content-Length", "2")], [b"{}"])
    assert sent.startswith(b"HTTP/1.1 ")
    assert sent.endswith(b"\r\n\r\n")


def test_an_empty_answer_and_one_without_a_piece_go_out_too():
    for pieces in ([], [b""]):
        assert b"".join(answer("GET / HTTP/1.1", "200 OK", [("Content-Length", "0")], pieces)).endswith(b"\r\n\r\n")


def test_a_stream_goes_out_piece_by_piece_in_chunks():
    sent = answer("GET / HTTP/1.1", "200 OK", [], [b"one", b"three"])
    assert b"\r\nTransfer-Encoding: chunked\r\n" in sent[0]
    assert b"".join(sent).partition(b"\r\n\r\n")[2] == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    assert len(sent) > 2


def test_a_body_of_several_pieces_is_whole():
    sent = answer("GET / HTTP/1.1", "200 OK", [("Content-Length", "8")], [b"one", b"three", b"too much"])
    assert b"".join(sent).endswith(b"\r\n\r\nonethree")


def test_gunicorn_takes_it_for_a_file_too(monkeypatch, tmp_path):
    monkeypatch.setattr(wsgi, "Response", wsgi.Response)
    install()
    assert wsgi.Response is WholeResponse
    from gunicorn.http.unreader import IterUnreader

    socket, config = Socket(), Config()
    request = Request(config, IterUnreader([b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"]), ("127.0.0.1", 1))
    response, _ = wsgi.create(request, socket, ("127.0.0.1", 1), ("127.0.0.1", 2), config)
    response.start_response("200 OK", [("Content-Length", "4")])
    response.write_file(wsgi.FileWrapper(io.BytesIO(b"file")))
    response.close()
    assert b"".join(socket.sent).endswith(b"\r\n\r\nfile")
