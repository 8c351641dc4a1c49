"""A witness (c2sp.org/tlog-witness) that shares nothing with the service but the tests' client: written from the specification
and from RFC 6962 §2.1.2, whose recursion it turns round to verify a consistency proof."""

import base64
import contextlib
import hashlib
import http.server
import threading
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.tlog_client import open_note, sha256


def roots_of(old: int, new: int, old_root: bytes, path: list[bytes]) -> tuple[bytes, bytes]:
    """The roots of the first `old` and of all `new` entries that a consistency proof leads to. Raises ValueError for one that
    is too short or too long."""
    path = list(path)

    def subproof(m: int, n: int, whole: bool) -> tuple[bytes, bytes]:
        """SUBPROOF(m, D[n], b): the hashes of its first m entries and of all of them."""
        if m == n:
            known = old_root if whole else path.pop(0)
            return known, known
        k = 1 << (n - 1).bit_length() - 1
        if m <= k:
            older, left = subproof(m, k, whole)
            return older, sha256(b"\1", left, path.pop(0))
        older, newer = subproof(m - k, n - k, False)
        left = path.pop(0)
        return sha256(b"\1", left, older), sha256(b"\1", left, newer)

    try:
        found = subproof(old, new, True)
    except IndexError:
        raise ValueError("too short") from None
    if path:
        raise ValueError("too long")
    return found


class Witness:
    """Knows the logs of `vkeys` and keeps of each the newest checkpoint that it cosigned: `seen[origin] = (size, root)`.

    `answer`, while it is set, is what everybody gets instead: (status, headers, body).
    """

    def __init__(self, name: str, *vkeys: str):
        self.name, self.vkeys = name, list(vkeys)
        self.seen: dict[str, tuple[int, bytes]] = {}
        self.bodies: list[bytes] = []
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self._key = Ed25519PrivateKey.generate()
        self._public = b"\4" + self._key.public_key().public_bytes_raw()
        self._id = hashlib.sha256(name.encode() + b"\n" + self._public).digest()[:4]
        self._lock = threading.Lock()

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self._id.hex()}+{base64.b64encode(self._public).decode()}"

    def add_checkpoint(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer, by the specification's rules in their order."""
        with self._lock:
            self.bodies.append(body)
            if self.answer is not None:
                return self.answer
            head, _, note = body.partition(b"\n\n")
            first, *lines = head.decode().split("\n")
            assert first.startswith("old ")
            old, path = int(first[4:]), [base64.b64decode(line, validate=True) for line in lines]
            origin = note.decode().split("\n")[0]
            known = [vkey for vkey in self.vkeys if vkey.partition("+")[0] == origin]
            if not known:
                return 404, {}, b"unknown log\n"
            checkpoint = next((opened for vkey in known if (opened := _opened(note, vkey))), None)
            if checkpoint is None:
                return 403, {}, b"no signature by a key of this log\n"
            size, root = int(checkpoint[1]), base64.b64decode(checkpoint[2])
            if old > size:
                return 400, {}, b"old is larger than the checkpoint\n"
            seen, seen_root = self.seen.get(origin, (0, b""))
            if old != seen or (old == size and root != seen_root):
                return 409, {"Content-Type": "text/x.tlog.size"}, f"{seen}\n".encode()
            if not self._consistent(old, size, seen_root, root, path):
                return 422, {}, b"inconsistent\n"
            self.seen[origin] = size, root
            return 200, {}, self.cosign(note)

    def _consistent(self, old: int, size: int, old_root: bytes, root: bytes, path: list[bytes]) -> bool:
        if old in (0, size):
            return not path
        try:
            return roots_of(old, size, old_root, path) == (old_root, root)
        except ValueError:
            return False

    def cosign(self, note: bytes) -> bytes:
        now = int(time.time())
        text = note.decode().rpartition("\n\n")[0] + "\n"
        signature = self._key.sign(f"cosignature/v1\ntime {now}\n{text}".encode())
        return f"— {self.name} {base64.b64encode(self._id + now.to_bytes(8, 'big') + signature).decode()}\n".encode()

    def holds(self, note: bytes) -> bool:
        """Whether a note bears a cosignature by this witness that holds."""
        text, _, lines = note.decode().rpartition("\n\n")
        for line in lines.splitlines():
            _, name, encoded = line.split(" ")
            raw = base64.b64decode(encoded)
            if name == self.name and raw[:4] == self._id:
                at = int.from_bytes(raw[4:12], "big")
                self._key.public_key().verify(raw[12:], f"cosignature/v1\ntime {at}\n{text}\n".encode())
                return True
        return False

    @contextlib.contextmanager
    def listening(self, port: int = 0):
        """Its submission prefix."""
        witness = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = self.path == "/w/add-checkpoint"
                status, headers, answer = witness.add_checkpoint(body) if known else (404, {}, b"no such path\n")
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/w"
            finally:
                server.shutdown()
                thread.join()


def _opened(note: bytes, vkey: str) -> list[str] | None:
    with contextlib.suppress(AssertionError, InvalidSignature, ValueError):
        return open_note(note, vkey)
    return None
