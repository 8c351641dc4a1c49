"""Twenty random faults on a running TaskPulse; `make chaos` does two hundred."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_acknowledged_change_is_recorded_once_whatever_is_killed():
    """On the broker that KAFKA_BOOTSTRAP_SERVERS or CHAOS_KAFKA names, else on the embedded one."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"SECRET_KEY", "DATABASE_URL", "TASKPULSE_HOME"}
    }
    command = [sys.executable, "-m", "tests.chaos", "--faults", "20", "--seed", secrets.token_hex(4)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "lost 0, twice 0, out of order 0" in result.stdout
