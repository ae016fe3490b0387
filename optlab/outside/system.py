"""What one operating system has and another lacks: each asked for here, with what stands in for it elsewhere."""

import contextlib
import errno
import os
import platform
from pathlib import Path


def cores() -> int:
    """How many cores this process may use, or, where the system doesn't say, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """How many processes were running or waiting in the last minute; None where the system doesn't say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def processor() -> str:
    """The model of the processor, as exactly as the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sync_folder(folder: Path) -> None:
    """Puts the names in `folder` on the disk, where the system can; elsewhere they get there by themselves, later."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


def lock(descriptor: int) -> bool:
    """Takes the lock of an open file, which ends when the file is closed or the process ends, however it ends.

    Returns:
      False if another holds it.

    Raises:
      OSError: the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        fcntl = None
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _lock_by_windows(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _lock_by_windows(descriptor: int) -> None:
    try:
        import msvcrt
    except ImportError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
