"""How much of the machine's processor time nobody uses, and how many requests there is room for.

It is the machine's. What a container may use of it is not looked at: one that may use less is taken to have time left.
"""

from pathlib import Path

_STAT = Path("/proc/stat")
# proc_stat(5): idle, and waiting for a disk, which leaves the processor free.
_IDLE = slice(3, 5)
# What comes after it, guests' time, is in the first columns already.
_ALL = slice(0, 8)
# Below the one share the machine has no time left, above the other it has some.
_NONE_LEFT, _SOME_LEFT = 0.05, 0.15
_FEWEST = 2


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


class Room:
    """How many requests of one process are to be at work at once.

    On a machine whose processors have no time left, more would only wait for each other and push each other out of its caches: with
    2 instead of 8, a creation of one of 32 clients took an eighth less of it. Where there is time left, requests wait for something
    else, and more can be done meanwhile.
    """

    def __init__(self, threads: int):
        self.most = self._threads = threads
        self._processors = Processors()

    def look(self) -> None:
        """To be called every now and then."""
        idle = self._processors.idle()
        if idle < _NONE_LEFT:
            self.most = min(_FEWEST, self._threads)
        elif idle > _SOME_LEFT:
            self.most = min(self.most + 1, self._threads)
