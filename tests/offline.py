"""deploy/verify/taskpulse_verify.py as an auditor runs it: one file, alone on its path, in a process of its own or here."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "deploy" / "verify" / "taskpulse_verify.py"

_spec = importlib.util.spec_from_file_location("taskpulse_verify", FILE)
verify = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = verify
_spec.loader.exec_module(verify)


def run(directory: Path, *arguments: str, given: bytes = b"") -> tuple[int, dict]:
    """Exit code and the report, from a directory that holds the file and nothing of TaskPulse."""
    shutil.copy(FILE, directory)
    command = [sys.executable, "-I", FILE.name, "--json", *arguments]
    done = subprocess.run(command, cwd=directory, input=given, capture_output=True, timeout=60, check=False)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def wrong_with(lines: list[bytes], *keys: str, held=()) -> str | None:
    """What is wrong with a bundle, or why that cannot be said; None if it is sound."""
    known = verify.Keys([verify.Key.parse(key) for key in keys], [])
    bundle = verify.Bundle(known, [verify.Checkpoint(point.origin, point.size, point.root, "") for point in held])
    try:
        bundle.read(lines)
        if bundle.ended:
            bundle.finish()
    except verify.Wrong as error:
        return str(error)
    except verify.CannotCheck as error:
        return f"could not check: {error}"
    return None if bundle.ended else "cut off"
