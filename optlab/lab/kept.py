"""What is kept of a study that is under way: its finished chunks, in its folder or in memory."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optlab.lab.errors import StudyError
from optlab.lab.folder import Store
from optlab.lab.plan import Chunk

POLL_SECONDS = 0.2
_PLAN_SECONDS = 600


class Kept:
    """The finished chunks of a study, in its folder or, without one, in memory."""

    def __init__(self, about: Mapping[str, Any], folder: Path | None) -> None:
        self._store = None if folder is None else Store(folder)
        self._arrays: dict[int, dict[str, np.ndarray]] = {}
        self._about = about

    def limit(self, find: Callable[[], int]) -> int:
        """The most runs of a chunk: as it was when the study was begun, or as `find` finds it."""
        if self._store is None:
            return find()
        self._store.require_same(self._about)
        header = self._store.header()
        if header is not None:
            return header["limit"]
        if jax.process_index() > 0:
            return self._limit_of_the_first_process()
        limit = find()
        self._store.begin(self._about, limit)
        return limit

    def _limit_of_the_first_process(self) -> int:
        assert self._store is not None
        for _ in range(int(_PLAN_SECONDS / POLL_SECONDS)):
            if (header := self._store.header()) is not None:
                self._store.require_same(self._about)
                return header["limit"]
            time.sleep(POLL_SECONDS)
        raise StudyError(
            f"process 0 has begun no study in {_PLAN_SECONDS} s: it sees another folder, or had finished already"
        )

    def begun(self) -> bool:
        """Whether the plan is still there; the first process deletes it when it has read all chunks."""
        return self._store is None or self._store.header() is not None

    def holds(self, number: int) -> bool:
        return number in self._arrays if self._store is None else self._store.holds(number)

    def save(self, number: int, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
        if self._store is None:
            self._arrays[number] = dict(arrays)
        else:
            self._store.save(number, str(chunk), arrays)

    def load(self, number: int, chunk: Chunk) -> dict[str, np.ndarray]:
        return self._arrays[number] if self._store is None else self._store.load(number, str(chunk))
