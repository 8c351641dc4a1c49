"""A container of the image, through the engine's own client."""

import json
import os
import secrets
import subprocess
import time

DOCKER, IMAGE = os.environ.get("DOCKER", "docker"), os.environ.get("IMAGE", "")
# Nobody listens there: what needs a database or a broker must say so and live on.
NOWHERE = {"DATABASE_URL": "postgresql://taskpulse:x@127.0.0.1:1/taskpulse", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
HARDENED = [
    "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
    "--tmpfs", "/tmp:size=16m,noexec,nosuid,nodev", "--memory", "384m", "--pids-limit", "128",
]  # fmt: skip
# Seconds.
PATIENCE = 60


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    result = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert not check or result.returncode == 0, f"{' '.join(arguments)}: {result.stderr}"
    return result


def image() -> dict:
    return json.loads(docker("image", "inspect", IMAGE).stdout)[0]


def run(*arguments: str, settings: dict | None = None, entrypoint: str | None = None) -> subprocess.CompletedProcess:
    """To its end, as production runs it; `settings` None for what a role needs to start, {} for none."""
    return docker("run", "--rm", *_options(settings, entrypoint), IMAGE, *arguments, check=False)


def _options(settings: dict | None, entrypoint: str | None = None) -> list[str]:
    given = {"SECRET_KEY": secrets.token_urlsafe(50), **NOWHERE} if settings is None else settings
    named = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
    return [*HARDENED, *named, *(["--entrypoint", entrypoint] if entrypoint else [])]


class Container:
    """One role, hardened; gone at the end of the `with` block."""

    def __init__(self, *role: str, options: tuple[str, ...] = ()):
        self.id = docker("run", "--detach", *_options(None), *options, IMAGE, *role).stdout.strip()

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_) -> None:
        docker("rm", "--force", self.id)

    def execute(self, *command: str) -> subprocess.CompletedProcess:
        return docker("exec", self.id, *command, check=False)

    def python(self, code: str) -> str:
        result = self.execute("python", "-c", code)
        assert result.returncode == 0, result.stderr + self.log()
        return result.stdout

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a request to the web role."""
        code = (
            "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=10); "
            f"c.request('GET', {path!r}); r = c.getresponse(); print(r.status, r.read().decode())"
        )
        status, _, body = self.python(code).partition(" ")
        return int(status), body

    def state(self) -> dict:
        return json.loads(docker("inspect", self.id).stdout)[0]["State"]

    def log(self) -> str:
        result = docker("logs", self.id)
        return result.stdout + result.stderr

    def wait_until_healthy(self) -> None:
        self.wait_for(lambda: self.state()["Health"]["Status"] == "healthy", "healthy")

    def wait_for(self, condition, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.state()["Running"], f"it ended: {self.log()}"
            assert time.monotonic() < end, f"not {what} after {PATIENCE} s: {self.state()} {self.log()}"
            time.sleep(0.3)

    def signal(self, name: str) -> None:
        """To the role itself; SIGSTOP too, which a first process takes only from outside its container."""
        docker("kill", "--signal", name, self.id)

    def terminate(self) -> int:
        """SIGTERM, as the engine sends it, and the status that follows; it has 25 seconds."""
        docker("stop", "--time", "25", self.id)
        return self.state()["ExitCode"]
