"""The finished chunks of a study that is under way."""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optlab.lab.errors import StudyError
from optlab.lab.files import replace

FOLDER = "unfinished"
_HEADER = "study.json"


class Store:
    """The chunks that are finished, as files under `unfinished` in a study's folder, beside what they belong to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def header(self) -> dict[str, Any] | None:
        """What `begin` wrote, or None.

        Raises:
          StudyError: the file can't be read.
        """
        path = self._folder / _HEADER
        if not os.path.isfile(path):
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise StudyError(f"{path} can't be read ({error}); give --overwrite, or another --output") from None

    def require_same(self, about: Mapping[str, Any]) -> None:
        """Makes sure that the chunks here, if there are any, belong to the study that `about` tells of.

        Raises:
          StudyError: they don't; the message says what differs.
        """
        header = self.header()
        if header is None:
            return
        before, now = header["about"], json.loads(json.dumps(about))
        changed = [
            f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise StudyError(
                f"{self._folder.parent} holds an unfinished study of another definition ({'; '.join(changed)}); "
                "give --overwrite, or another --output"
            )

    def begin(self, about: Mapping[str, Any], limit: int) -> None:
        """Writes down what the chunks to come belong to, and the most runs that one of them has."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"{self._folder} can't be written: {error.strerror}") from None
        replace(self._folder / _HEADER, json.dumps({"about": about, "limit": limit}, indent=1).encode())

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.npz"

    def holds(self, number: int) -> bool:
        return self._path(number).is_file()

    def save(self, number: int, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps a finished chunk.

        Raises:
          StudyError: it can't be written; the chunks before it stay.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{"key": np.array(key), **arrays})
        try:
            replace(self._path(number), buffer.getvalue())
        except StudyError as error:
            raise StudyError(f"{error}; what is finished is kept, run the same again to continue") from None

    def load(self, number: int, key: str) -> dict[str, np.ndarray]:
        """A finished chunk.

        Raises:
          StudyError: the file is not what `save` wrote for this chunk.
        """
        path = self._path(number)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = dict(file)
            found = str(arrays.pop("key"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StudyError(f"{path} is damaged ({error}); delete it to have its runs trained again") from None
        if found != key:
            raise StudyError(f"{path} holds {found}, not {key}; delete it to have its runs trained again")
        return arrays

    def remove(self) -> None:
        """Deletes the chunks, and nothing else."""
        if not self._folder.is_dir():
            return
        for path in [*self._folder.glob("*.npz"), *self._folder.glob("*.part"), self._folder / _HEADER]:
            path.unlink(missing_ok=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
