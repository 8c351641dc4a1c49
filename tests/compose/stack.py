"""The services of docker-compose.yml under a project name of their own, and requests to what they publish."""

import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from audit.signed_note import SigningKey

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKER = os.environ.get("DOCKER", "docker")
# AUDIT_LOG_ORIGIN's default.
AUDIT_LOG = "taskpulse/audit"
# Seconds.
PATIENCE = 180


class Failed(AssertionError):
    """A step did not do what it must; the message says which."""


class Stack:
    """Up inside the `with` block; afterwards nothing of it is left, volumes included."""

    def __init__(self, project: str = "taskpulse-compose-test"):
        self.project, self.port, self.token = project, _free_port(), ""
        self._next_image = f"{project}:next"
        self._directory = tempfile.TemporaryDirectory(prefix="compose-test-")
        self._settings = Path(self._directory.name) / "env"
        # What the file requires, and nothing that may be empty.
        self.secrets = list(dict.fromkeys(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text())))
        made = dict.fromkeys(self.secrets) | {"AUDIT_SIGNING_KEY": SigningKey.generate(AUDIT_LOG).secret()}
        lines = [f"{name}={value or secrets.token_urlsafe(48)}" for name, value in made.items()]
        self._settings.write_text("\n".join([*lines, f"PUBLISHED_PORT={self.port}", f"TASKPULSE_IMAGE={os.environ['IMAGE']}", ""]))
        self._settings.chmod(0o600)

    def __enter__(self) -> "Stack":
        self.compose("down", "--volumes", "--remove-orphans")
        return self

    def __exit__(self, kind, *_) -> None:
        if kind:
            print(self.compose("logs", "--no-color", "--tail", "40", check=False).stdout)
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "30")
        self.engine("image", "rm", "--force", self._next_image, check=False)
        self._directory.cleanup()

    def compose(self, *arguments: str, check: bool = True, settings: Path | None = None) -> subprocess.CompletedProcess:
        # Nothing of whoever starts this may reach the services.
        kept = {name: value for name, value in os.environ.items() if name.startswith(("DOCKER", "PATH", "HOME"))}
        command = [DOCKER, "compose", "--project-name", self.project, "--env-file", str(settings or self._settings), *arguments]
        result = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=600, check=False)
        if check and result.returncode:
            raise Failed(f"compose {' '.join(arguments)}: status {result.returncode}: {result.stderr[-2000:]}")
        return result

    def refusal_without(self, name: str) -> str:
        """What compose says when one setting is missing."""
        lines = [line for line in self._settings.read_text().splitlines() if not line.startswith(f"{name}=")]
        lacking = Path(self._directory.name) / "lacking"
        lacking.write_text("\n".join(lines) + "\n")
        result = self.compose("config", "--quiet", check=False, settings=lacking)
        return result.stderr if result.returncode else ""

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).stdout.split()

    def engine(self, *arguments: str, check: bool = True, given: str | None = None) -> subprocess.CompletedProcess:
        """A command of the engine itself; `given` is its standard input."""
        return subprocess.run([DOCKER, *arguments], input=given, capture_output=True, text=True, timeout=120, check=check)

    def inspect(self, container: str) -> dict:
        return json.loads(self.engine("inspect", container).stdout)[0]

    def takes_next_image(self) -> str:
        """From now on the services are to run another image, the same but for a label. Gives its id."""
        self.engine("build", "--tag", self._next_image, "-", given=f"FROM {os.environ['IMAGE']}\nLABEL next=true\n")
        with self._settings.open("a") as settings:
            settings.write(f"TASKPULSE_IMAGE={self._next_image}\n")
        return self.inspect(self._next_image)["Id"]

    def manage(self, *command: str, **variables: str) -> str:
        """A command of manage.py, as the owner of the database."""
        given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        return self.compose("run", "--rm", "--no-deps", "-T", *given, "migrate", *command).stdout.strip()

    def request(self, method: str, path: str, body: dict | None = None) -> tuple[int, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            if body is None:
                connection.request(method, path, headers=headers)
            else:
                connection.request(method, path, json.dumps(body), headers | {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return response.status, json.loads(text) if text[:1] in (b"{", b"[") else text

    def answers(self, path: str) -> bool:
        try:
            return self.request("GET", path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_for(self, condition, what: str) -> float:
        """Seconds until the condition held. Raises Failed."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > PATIENCE:
                raise Failed(f"{what}: not after {PATIENCE} s")
            time.sleep(0.1)
        return time.monotonic() - began


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
