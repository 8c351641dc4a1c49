"""Starting a child that ends with its parent, and, as root, under another user: PostgreSQL refuses to run as root.

That user may not be able to enter the directories above the data (`/root`, say). Their modes are not ours to change:
on Linux the child keeps the one capability that lets it pass (capabilities(7), ambient set).
"""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

USER = "nobody"

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522
_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)


class Inaccessible(Exception):
    """The unprivileged user cannot reach what it needs, and no capability helps."""


def owner(path: Path) -> pwd.struct_passwd | None:
    """As root, whom the server runs as: the owner of the data that is there, else nobody. Otherwise None: as we are."""
    if os.geteuid() != 0:
        return None
    try:
        uid = path.stat().st_uid
        if uid != 0:
            return pwd.getpwuid(uid)
    except (FileNotFoundError, KeyError):
        pass
    return pwd.getpwnam(USER)


def preparation(user: pwd.struct_passwd | None, paths: Iterable[Path], death_signal: int = signal.SIGTERM) -> Callable[[], None]:
    """For `Popen(preexec_fn=…)`: becomes `user`, able to reach `paths`, and gets `death_signal` when the parent dies.

    The parent is the thread that starts the child (prctl(2)); only Linux tells of its death. Raises Inaccessible.
    """
    parent = os.getpid()
    capability = _needed_capability(user, paths) if user else None

    def prepare() -> None:
        if user:
            _become(user, capability)
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, death_signal)  # after the change of user, which clears it
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _needed_capability(user: pwd.struct_passwd, paths: Iterable[Path]) -> int | None:
    closed = next((parent for path in paths for parent in path.resolve().parents if not _enters(user, parent)), None)
    if closed is None:
        return None
    permitted = _permitted_capabilities()
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if permitted >> capability & 1:
            return capability
    raise Inaccessible(
        f"PostgreSQL does not run as root, and the user {user.pw_name} cannot enter {closed}: set TASKPULSE_HOME to a directory "
        "that everybody may enter, or start this as an ordinary user"
    )


def _enters(user: pwd.struct_passwd, directory: Path) -> bool:
    status = directory.stat()
    return bool(status.st_mode & (0o100 if status.st_uid == user.pw_uid else 0o001))


def _permitted_capabilities() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:")), 0)


def _become(user: pwd.struct_passwd, capability: int | None) -> None:
    if capability is not None:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if capability is not None:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        bit = 1 << capability
        # Effective, permitted, inheritable; then the same for the capabilities from 32 on.
        data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
        _check(_libc.capset(header, data))
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, first: int, second: int = 0) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
