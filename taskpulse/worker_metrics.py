"""Metrics of a web role with several processes: prometheus_client's multi-process mode, kept small.

Each worker counts in files of its own, and whichever is asked adds them all up. prometheus_client keeps the files of the
dead for ever, since their counts must not be lost; here the master adds them to one file and removes them.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path

_PREFIX = "taskpulse-metrics-"
_OWNED, _MERGING = "owned.lock", "merging.lock"
_RETIRED = "retired"
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Directory:
    """The files of one gunicorn master and its workers: in shared memory where there is some, else among the temporary
    files, for their owner alone. It is gone with the master; what a killed master left goes with the next start."""

    def __init__(self, path: Path):
        self.path = path
        # Held as long as the master or a worker lives, however they end (flock(2)).
        self._owned = (path / _OWNED).open("a")
        fcntl.flock(self._owned, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    @functools.cache
    def of_this_master(cls) -> "Directory":
        """Made once, whatever number of times gunicorn reads its configuration. Sets PROMETHEUS_MULTIPROC_DIR, which
        prometheus_client reads when it is imported."""
        base = Path("/dev/shm")  # noqa: S108 (mkdtemp's name is nobody else's)
        if not os.access(base, os.W_OK | os.X_OK):
            base = Path(tempfile.gettempdir())
        _remove_what_is_left(base)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        os.environ[_VARIABLE] = str(path)
        return cls(path)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def sweep(self, alive: Container[int]) -> None:
        """Adds the counts of every process that is neither alive nor this one to those of the dead, and removes its files.

        Somebody may just be reading: then the files stay, and are counted, until the next call.
        """
        with _locked(self.path, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            if not free:
                return
            for kind in ("counter", "histogram", "summary"):
                self._retire(kind, [path for path in self.path.glob(f"{kind}_*.db") if _is_dead(path, alive)])
            for path in self.path.glob("gauge_live*.db"):
                if _is_dead(path, alive):
                    path.unlink()

    def _retire(self, kind: str, dead: list[Path]) -> None:
        from prometheus_client.mmap_dict import MmapedDict

        if not dead:
            return
        archive, new = self.path / f"{kind}_{_RETIRED}.db", self.path / "new"
        totals = defaultdict(float)
        for path in [archive, *dead] if archive.exists() else dead:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                totals[key] += value
        new.unlink(missing_ok=True)
        file = MmapedDict(str(new))
        for key, value in totals.items():
            file.write_value(key, value, 0.0)
        file.close()
        new.replace(archive)
        for path in dead:
            path.unlink()


def registry(*readings):
    """What a scrape shows: all that the workers counted, the dead too, and these readings; in a process without workers,
    all that it knows."""
    from prometheus_client import REGISTRY, CollectorRegistry

    if _VARIABLE not in os.environ:
        return REGISTRY
    found = CollectorRegistry()
    for collector in (_Workers(Path(os.environ[_VARIABLE])), *readings):
        found.register(collector)
    return found


class _Workers:
    def __init__(self, path: Path):
        self._path = path

    def collect(self):
        from prometheus_client.multiprocess import MultiProcessCollector

        with _locked(self._path, fcntl.LOCK_SH):
            return MultiProcessCollector(None, str(self._path)).collect()


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    with (path / _MERGING).open("a") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            yield False
        else:
            yield True


def _is_dead(path: Path, alive: Container[int]) -> bool:
    process = path.stem.rpartition("_")[2]
    return process.isdigit() and int(process) != os.getpid() and int(process) not in alive


def _remove_what_is_left(base: Path) -> None:
    for path in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (path / _OWNED).open("r+") as file:  # another's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
