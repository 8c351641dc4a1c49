"""How much of the machine's processor time nobody uses."""

from pathlib import Path

_STAT = Path("/proc/stat")
# proc_stat(5): idle, and waiting for a disk, which leaves the processor free.
_IDLE = slice(3, 5)
# What comes after it, guests' time, is in the first columns already.
_ALL = slice(0, 8)


class Processors:
    def __init__(self):
        self._idle, self._all = self._read()

    def idle(self) -> float:
        """The share of all processors' time since the last call; 1.0 where the system does not tell."""
        before = self._idle, self._all
        self._idle, self._all = self._read()
        passed = self._all - before[1]
        return (self._idle - before[0]) / passed if passed else 1.0

    def _read(self) -> tuple[int, int]:
        try:
            with _STAT.open() as file:
                columns = [int(ticks) for ticks in file.readline().split()[1:]]
        except OSError:
            return 0, 0
        return sum(columns[_IDLE]), sum(columns[_ALL])
