"""Files that are whole or not there."""

import os
from pathlib import Path

from optlab.lab.errors import StudyError


def replace(path: Path, content: bytes) -> None:
    """Writes a file that is whole or not there, whatever happens meanwhile; what was there stays until it is.

    Raises:
      StudyError: the file can't be written; nothing of it is left.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StudyError(f"{path} can't be written: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    """Puts the names in `folder` on the disk too, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
