"""`make schemathesis`: a whole service (`manage.py up` on embedded parts), and schemathesis against it, with a token and without.

CASES (10,000) is how many requests there must be at least; fewer fail the run, as does any failure or any answer of 500.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.running_up import RunningUp

CASES = int(os.environ.get("CASES") or 10_000)
_HERE = Path(__file__).parent
_ROUNDS = 20


def attack(service: RunningUp, token: str | None, examples: int, seed: int) -> int:
    """How many cases one run tried. Raises SystemExit where it found something."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(_HERE / "schemathesis.toml"), "run",
        f"http://127.0.0.1:{service.port}/api/schema", "--max-examples", str(examples), "--seed", str(seed),
    ]  # fmt: skip
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    run = subprocess.run(command, cwd=_HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"Test cases:\n\s+([\d,]+) generated", run.stdout)
    if run.returncode or not found:
        print(run.stdout)
        sys.exit(f"schemathesis failed {'with' if token else 'without'} a token, seed {seed}")
    return int(found[1].replace(",", ""))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="taskpulse-schemathesis-") as directory:
        service = RunningUp(Path(directory) / "home")
        try:
            service.start()
            token = service.credentials["token"]
            service.change_reaches_the_log()
            tried, seed = 0, 0
            while tried < CASES:
                seed += 1
                with_token = attack(service, token, max(10, min(100, CASES // 300)), seed)
                without = attack(service, None, 10, seed) if seed == 1 else 0
                tried += with_token + without
                print(f"seed {seed}: {with_token:,} cases with a token, {without:,} without, no failure", flush=True)
            faults = [line for line in service.log.splitlines() if " 500 " in line or "a request failed" in line]
            if faults:
                sys.exit("answers of 500:\n" + "\n".join(faults[:20]))
            print(f"{tried:,} cases, 0 failures, 0 answers of 500")
        finally:
            service.kill()


if __name__ == "__main__":
    main()
