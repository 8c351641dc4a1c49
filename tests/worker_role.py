"""A relay or a consumer as a process, asked over HTTP as an orchestrator and Prometheus do."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.running_up import ROOT, wait_until

COMMANDS = {"relay": "relay_outbox", "consumer": "consume_events"}


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class WorkerRole:
    def __init__(self, role: str, directory: Path, **environment: str):
        self._log = directory / f"{role}.log"
        variables = os.environ | {"TASKPULSE_WORKER_PORT": "0", "TASKPULSE_WORKER_ADDRESS": "127.0.0.1"} | environment
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", COMMANDS[role]], cwd=ROOT, env=variables, stdout=log, stderr=log
            )
        found = re.compile(r"probes and metrics on (http://127\.0\.0\.1:\d+)")
        wait_until(lambda: found.search(self.log) or self.process.poll() is not None, 30, "it says where it listens")
        assert self.process.poll() is None, self.log
        self.url = found.search(self.log).group(1)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def status(self, path: str) -> int:
        return get(self.url + path)[0]

    def readiness(self) -> tuple[int, dict[str, str]]:
        """The status, and what is said of each check: its detail, or else its status."""
        status, body = get(f"{self.url}/readyz")
        return status, {name: check.get("detail", check["status"]) for name, check in json.loads(body)["checks"].items()}

    def page(self) -> str:
        status, body = get(f"{self.url}/metrics")
        assert status == 200, body
        return body.decode()

    def metrics(self) -> dict[str, float]:
        """By sample as the text format writes it: `name` or `name{label="value",…}`."""
        return samples(self.page())


def samples(page: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@contextmanager
def worker_role(role: str, directory: Path, **environment: str):
    one = WorkerRole(role, directory, **environment)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
