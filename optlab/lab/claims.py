"""One writer for a study's folder: its lock, and who holds it."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from optlab.lab.errors import StudyError
from optlab.lab.files import replace
from optlab.outside import system

LOCK, WRITER = "lock", "writer.json"
_TRIES = 100


@contextlib.contextmanager
def claim(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Makes this process the one that writes to `folder`, until the block is left or the process ends, however it ends.

    The lock is the operating system's, so that nothing is left to clear away where a process was killed. Where the file
    system has no locks, `say` is told.

    Raises:
      StudyError: another process writes there, or nobody can.
    """
    lock = folder / LOCK
    descriptor = _locked(folder, say)
    try:
        replace(folder / WRITER, json.dumps(_this_process()).encode())
        yield
    finally:
        (folder / WRITER).unlink(missing_ok=True)
        gone = _deleted(lock)
        os.close(descriptor)
        if not gone:  # Windows deletes no open file
            _deleted(lock)
        with contextlib.suppress(OSError):  # it holds chunks, or the next process's lock
            folder.rmdir()


def _locked(folder: Path, say: Callable[[str], None]) -> int:
    """The open lock file."""
    try:
        for _ in range(_TRIES):  # its last holder may have deleted file and folder since a moment ago
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                continue
            if not _lock(descriptor, folder, say):
                os.close(descriptor)
                raise StudyError(
                    f"{folder.parent} is being written by {_writer(folder)}; wait for it, or give another folder"
                )
            if _is_still(folder / LOCK, descriptor):
                return descriptor
            os.close(descriptor)
    except OSError as error:
        raise StudyError(f"{folder} can't be written: {error.strerror}") from None
    raise StudyError(f"{folder / LOCK} can't be kept: something else deletes it")


def _lock(descriptor: int, folder: Path, say: Callable[[str], None]) -> bool:
    try:
        return system.lock(descriptor)
    except OSError as error:
        say(f"{folder.parent} is on a file system without locks ({error.strerror}): let nothing else write there")
        return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _deleted(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _this_process() -> dict[str, str | int]:
    now = datetime.datetime.now().astimezone()
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now.isoformat(" ", "seconds")}


def _writer(folder: Path) -> str:
    try:
        who = json.loads((folder / WRITER).read_text("utf-8"))
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has begun, or ended, this very moment
        return "another process"
