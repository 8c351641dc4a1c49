"""Prometheus' own checker of metrics and rules. PROMTOOL names it; where it names none, nothing is asked."""

import os
import subprocess

from tests.running_up import ROOT

PROMTOOL = os.environ.get("PROMTOOL")


def knows_dns() -> bool:
    """Whether it was built with discovery by DNS, as every release is; without, it takes a configuration of it for a mistake."""
    told = subprocess.run([PROMTOOL, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return "remove_all_sd" not in told or "enable_dns_sd" in told


def promtool(*arguments: str, text: str = "") -> None:
    """Fails with what it finds."""
    if PROMTOOL:
        found = subprocess.run([PROMTOOL, *arguments], input=text, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert (found.returncode, found.stderr) == (0, ""), found.stdout + found.stderr
