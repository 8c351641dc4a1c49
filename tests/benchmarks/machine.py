"""The machine, and the processor time and memory of process trees on it."""

import os
import platform
import statistics
from pathlib import Path

import psutil

MEGABYTE = 1024 * 1024


def facts() -> dict:
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gb": round(psutil.virtual_memory().total / MEGABYTE / 1024, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def server_facts() -> dict:
    """What of the server's settings the figures depend on."""
    from django.db import connection

    facts = {}
    with connection.cursor() as cursor:
        for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers"):
            cursor.execute(f"SHOW {name}")
            facts[f"postgresql_{name.removeprefix('server_')}"] = cursor.fetchone()[0]
    return facts


def cpu_seconds(root: psutil.Process | None) -> float:
    """User and system time of a process, its living descendants and those that it has waited for.

    Nothing is lost when a child ends: the kernel adds its time to its parent's.
    """
    if root is None:
        return 0.0
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def resident_mb(process: psutil.Process) -> float:
    return round(process.memory_info().rss / MEGABYTE, 1)


def postmaster(connection) -> psutil.Process | None:
    """The server's first process when it runs on this machine, found from a connection's backend; else None."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        number = cursor.fetchone()[0]
    try:
        backend = psutil.Process(number)
        return backend.parent() if backend.name().startswith("postgres") else None
    except psutil.Error:
        return None


def median(values) -> float:
    return statistics.median(values)


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank; `ordered` ascends."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
