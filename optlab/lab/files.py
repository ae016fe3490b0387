"""Files that are whole or not there."""

import os
from pathlib import Path

from optlab.lab.errors import StudyError
from optlab.outside import system

UNFINISHED = ".part"


def replace(path: Path, content: bytes) -> None:
    """Writes a file that is whole or not there, whatever happens meanwhile; what was there stays until it is.

    Raises:
      StudyError: the file can't be written; nothing of it is left.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            system.sync_folder(path.parent)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StudyError(f"{path} can't be written: {error.strerror}") from None


def sweep(path: Path) -> None:
    """Deletes what was left where `replace` was killed while it wrote this file."""
    for left in path.parent.glob(f"{path.name}.*{UNFINISHED}"):
        left.unlink(missing_ok=True)
