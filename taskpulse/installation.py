"""What `manage.py up` keeps in TASKPULSE_HOME: the lock, the secrets that it made, and the administrator's credentials."""

import fcntl
import json
import os
import secrets
import tempfile
from pathlib import Path

ENVIRONMENT = "environment.json"
CREDENTIALS = "credentials.json"
# Signs the checkpoints of the audit log, unless the environment names a key.
SIGNING_KEY = "audit-signing.key"
LOCK = "up.lock"
ADMINISTRATOR = "admin"


class Occupied(Exception):
    """Another process uses this directory; the message names it."""


class Installation:
    """Files are written whole or not at all, and for their owner alone (mode 600)."""

    def __init__(self, home: Path):
        self.home = home
        self._lock = None
        # Whether the last run was killed: what it left may need a moment to end.
        self.left_in_haste = False

    def acquire(self, url: str) -> None:
        """Takes the directory until this process ends, however it ends (flock(2)). Raises Occupied."""
        # Others may pass through but not look: the embedded PostgreSQL may run as another user.
        self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(self.home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        self._lock = os.fdopen(descriptor, "r+")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(f"{self.home} is in use by another `manage.py up`{_holder(self._lock.read())}") from None
        self.left_in_haste = bool(self._lock.read())
        self._write_holder(json.dumps({"pid": os.getpid(), "url": url}))

    def release(self) -> None:
        """An orderly end."""
        self._write_holder("")

    def _write_holder(self, text: str) -> None:
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(text)
        self._lock.flush()

    def keep_environment(self, secret_key_given: bool, database_url: str | None) -> None:
        """Keeps what the environment does not name: SECRET_KEY, made once, the embedded database's address, and that
        this is one machine's affair."""
        try:
            known = json.loads((self.home / ENVIRONMENT).read_text())
        except FileNotFoundError:
            known = {}
        wanted = {name: value for name, value in known.items() if name != "DATABASE_URL"}
        wanted["TASKPULSE_MODE"] = "local"
        if not secret_key_given:
            wanted.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
        if database_url is not None:
            wanted["DATABASE_URL"] = database_url
        if wanted != known:
            self.write(ENVIRONMENT, wanted)

    def credentials(self) -> dict | None:
        """`url`, `username`, `password`, `token`; None if there are none. Raises ValueError for a file that is no JSON object."""
        path = self.home / CREDENTIALS
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise ValueError(f"{path}: expected a JSON object; move it away if it is not wanted") from None
        if not isinstance(document, dict):
            raise ValueError(f"{path}: expected a JSON object; move it away if it is not wanted")
        return document

    def write(self, name: str, document: dict) -> None:
        """A reader sees the old document or the new one, also after a crash in between."""
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=self.home)  # mode 600 (tempfile's documentation)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(self.home / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f" (process {holder['pid']}, {holder['url']})"
    except (ValueError, KeyError, TypeError):
        return ""
