"""The folder of a study that is under way: what it is of, and its finished chunks."""

import hashlib
import io
import json
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optlab.lab.errors import StudyError
from optlab.lab.files import UNFINISHED, replace
from optlab.outside.version import __version__

FOLDER = "unfinished"
LAYOUT = 2  # 0.1.0, which wrote none, compared hyperparameters by six digits and no functions
OTHERWISE = "give --overwrite, or another --output"
CONTINUES = "what is finished is kept, run the same again to continue"
_HEADER = "study.json"
PROGRAM = "program "
_ABSENT = "nothing"


class Decided(NamedTuple):
    """All that decides the numbers of a study.

    Attributes:
      values: by name, as JSON has it; functions by the hash of their traced programs.
      opaque: which of the functions can't be told apart from others, and why.
    """

    values: dict[str, Any]
    opaque: dict[str, str]


class Header(NamedTuple):
    """What the chunks in a folder belong to.

    Attributes:
      values, opaque: see `Decided`.
      limit: the most runs of a chunk.
      fingerprint: of all this, which every chunk carries.
    """

    values: dict[str, Any]
    opaque: dict[str, str]
    limit: int
    fingerprint: str


def header_of(decided: Decided, limit: int) -> Header:
    """The header of a study that begins: one that can't be told from others is like no other start of it either."""
    own = uuid.uuid4().hex if decided.opaque else ""
    text = json.dumps([LAYOUT, decided.values, decided.opaque, limit, own], sort_keys=True)
    return Header(*decided, limit, hashlib.sha256(text.encode()).hexdigest())


class Store:
    """The chunks that are finished, as files under `unfinished` in a study's folder, beside what they belong to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def header(self) -> Header | None:
        """What `begin` wrote, or None.

        Raises:
          StudyError: the file can't be read, or is of another version of optlab.
        """
        path = self.folder / _HEADER
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            if found.get("layout") == LAYOUT:
                return Header(*(found[name] for name in Header._fields))
            writer = found.get("optlab") or found["about"]["versions"].partition(",")[0]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"{path} can't be read ({_said(error)}); {OTHERWISE}") from None
        raise StudyError(
            f"{self.folder.parent} holds an unfinished study of {writer}, whose chunks this version can't go on with; "
            f"end it with that version, or {OTHERWISE}"
        )

    def require_same(self, decided: Decided) -> None:
        """Makes sure that the chunks here, if there are any, belong to the study that `decided` tells of.

        Raises:
          StudyError: they don't, and the message says what differs; or nobody can tell, and it says why.
        """
        header = self.header()
        if header is None:
            return
        where = f"{self.folder.parent} holds an unfinished study"
        if changed := differences(header.values, decided.values):
            raise StudyError(f"{where} of another definition ({'; '.join(changed)}); {OTHERWISE}")
        if opaque := header.opaque | decided.opaque:
            reasons = "; ".join(f"{name} {reason}" for name, reason in opaque.items())
            raise StudyError(f"{where} that may be this one or another, nobody can tell: {reasons}; {OTHERWISE}")

    def begin(self, header: Header) -> None:
        """Writes down what the chunks to come belong to.

        Raises:
          StudyError: it can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"{self.folder} can't be written: {error.strerror}") from None
        written = {"layout": LAYOUT, "optlab": f"optlab {__version__}", **header._asdict()}
        replace(self.folder / _HEADER, json.dumps(written, indent=1).encode())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"

    def holds(self, number: int) -> bool:
        return self._path(number).is_file()

    def save(self, number: int, key: str, fingerprint: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps a finished chunk.

        Raises:
          StudyError: it can't be written; the chunks before it stay.
        """
        buffer = io.BytesIO()
        said = {"key": np.array(key), "fingerprint": np.array(fingerprint)}
        np.savez_compressed(buffer, allow_pickle=False, **said, **arrays)
        try:
            replace(self._path(number), buffer.getvalue())
        except StudyError as error:
            raise StudyError(f"{error}; {CONTINUES}") from None

    def load(self, number: int, key: str, fingerprint: str) -> dict[str, np.ndarray]:
        """A finished chunk.

        Raises:
          StudyError: the file is not what `save` wrote for this chunk of this study.
        """
        path, again = self._path(number), "delete it to have its runs trained again"
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = dict(file)
            found, of = (str(arrays.pop(name)) for name in ("key", "fingerprint"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise StudyError(f"{path} is damaged ({_said(error)}); {again}") from None
        if found != key:
            raise StudyError(f"{path} holds {found}, not {key}; {again}")
        if of != fingerprint:
            raise StudyError(f"{path} holds {found} of another study; {again}")
        return arrays

    def remove(self) -> None:
        """Deletes the chunks and what they belong to, and nothing else.

        Raises:
          StudyError: they can't be deleted.
        """
        try:
            for path in (self.folder / _HEADER, *self.folder.glob("*.npz"), *self.folder.glob(f"*{UNFINISHED}")):
                path.unlink(missing_ok=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            raise StudyError(f"{self.folder} can't be deleted: {error.strerror}") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the values of two `Decided`, to the bit: `name: before -> now`.

    Programs follow from values too, and so are spoken of where nothing else differs.
    """

    def text(values: Mapping[str, Any], name: str) -> str:
        return json.dumps(values[name], sort_keys=True) if name in values else _ABSENT

    def said(values: Mapping[str, Any], name: str) -> Any:
        return values.get(name, _ABSENT)

    def is_program(name: str) -> bool:
        return any(str(said(values, name)).startswith(PROGRAM) for values in (before, now))

    found = [name for name in {**before, **now} if text(before, name) != text(now, name)]
    told = [name for name in found if not is_program(name)] or found
    return [f"{name}: {said(before, name)} -> {said(now, name)}" for name in told]


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
