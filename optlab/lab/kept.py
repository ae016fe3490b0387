"""What is kept of a study that is under way: its finished chunks, in its folder or in memory."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from optlab.lab.claims import claim
from optlab.lab.errors import StudyError
from optlab.lab.folder import Decided, Header, Store, differences, header_of
from optlab.lab.plan import Chunk
from optlab.outside.processes import hear, tell

_POLL_SECONDS = 0.2
_PLAN_SECONDS = 600  # the first process compiles before it knows the plan
_SEEN_SECONDS = 30  # until a file that one machine has written is seen by another
_CALLS = itertools.count()


class Kept(Protocol):
    """The chunks that are finished."""

    def begin(self, decided: Callable[[], Decided], find: Callable[[], int]) -> int:
        """The most runs of a chunk: as it was when the study was begun, or as `find` finds it.

        Raises:
          StudyError: chunks of another study are there.
        """
        ...

    def holds(self, number: int) -> bool: ...

    def save(self, number: int, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None: ...

    def load(self, number: int, chunk: Chunk) -> dict[str, np.ndarray]: ...

    def wait(self, count: int) -> None:
        """Until so many chunks are there, which other processes may have to finish."""
        ...

    def attributes(self) -> dict[str, str]:
        """What the results say of where they were kept."""
        ...


class InMemory:
    """For this process alone, until it ends."""

    def __init__(self) -> None:
        self._arrays: dict[int, dict[str, np.ndarray]] = {}

    def begin(self, decided: Callable[[], Decided], find: Callable[[], int]) -> int:
        del decided
        if jax.process_count() > 1:
            raise StudyError("several processes need a folder that all of them see")
        return find()

    def holds(self, number: int) -> bool:
        return number in self._arrays

    def save(self, number: int, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
        del chunk
        self._arrays[number] = dict(arrays)

    def load(self, number: int, chunk: Chunk) -> dict[str, np.ndarray]:
        del chunk
        return self._arrays[number]

    def wait(self, count: int) -> None:
        del count

    def attributes(self) -> dict[str, str]:
        return {}


class InFolder:
    """As files, so that a study goes on where it was ended, and several processes share it.

    The first process is the one that claims the folder and looks into it; it tells the others what it found.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._store, self._say = Store(folder), say
        self._subject, self._told = f"optlab/study/{next(_CALLS)}", False
        self._header: Header | None = None

    def begin(self, decided: Callable[[], Decided], find: Callable[[], int]) -> int:
        header = self._join(decided()) if jax.process_index() > 0 else self._open(decided(), find)
        self._header = header
        return header.limit

    @property
    def _fingerprint(self) -> str:
        assert self._header is not None, "begin comes first"
        return self._header.fingerprint

    def _open(self, decided: Decided, find: Callable[[], int]) -> Header:
        self._store.require_same(decided)
        header = self._store.header()
        if header is None:
            for name, reason in decided.opaque.items():
                self._say(f"can't go on from here if it is stopped: {name} {reason}")
            header = header_of(decided, find())
            self._store.begin(header)
        self.tell(header=header.fingerprint)
        return header

    def _join(self, decided: Decided) -> Header:
        try:
            said = json.loads(hear(self._subject, _PLAN_SECONDS))
        except TimeoutError:
            raise StudyError(f"process 0 has begun no study in {_PLAN_SECONDS} s") from None
        if "refused" in said:
            raise StudyError(f"process 0 can't begin: {said['refused']}")
        for _ in range(round(_SEEN_SECONDS / _POLL_SECONDS)):
            header = self._store.header()
            if header is not None and header.fingerprint == said["header"]:
                if changed := differences(header.values, decided.values):
                    raise StudyError(f"process {jax.process_index()} would train another study: {'; '.join(changed)}")
                return header
            time.sleep(_POLL_SECONDS)
        raise StudyError(
            f"process 0 writes to another folder than {self._store.folder.parent}, or has finished already"
        )

    def tell(self, **said: str) -> None:
        """Tells the other processes, once, what this first one found: the fingerprint, or why it `refused`."""
        if jax.process_count() > 1 and jax.process_index() == 0 and not self._told:
            self._told = True
            tell(self._subject, json.dumps(said))

    def holds(self, number: int) -> bool:
        return self._store.holds(number)

    def save(self, number: int, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
        self._store.save(number, str(chunk), self._fingerprint, arrays)

    def load(self, number: int, chunk: Chunk) -> dict[str, np.ndarray]:
        return self._store.load(number, str(chunk), self._fingerprint)

    def wait(self, count: int) -> None:
        while not all(self.holds(number) for number in range(count)):
            if jax.process_index() > 0 and self._store.header() is None:
                return  # the first has read them, and deleted them
            time.sleep(_POLL_SECONDS)

    def attributes(self) -> dict[str, str]:
        return {} if self._header is None else {"decided": json.dumps(self._header.values)}

    def forget(self) -> None:
        """Deletes the chunks, which are in the results by now."""
        self._store.remove()


@contextlib.contextmanager
def opened(folder: Path, say: Callable[[str], None]) -> Iterator[InFolder]:
    """The folder of a study, for this process and those of its coordinated run alone, until the block is left.

    Args:
      say: told, in one line, what the user should know.

    Raises:
      StudyError: another process writes there, or nobody can.
    """
    kept = InFolder(folder, say)
    with contextlib.ExitStack() as stack:
        try:
            if jax.process_index() == 0:
                stack.enter_context(claim(Store(folder).folder, say))
            yield kept
        except StudyError as error:
            kept.tell(refused=str(error))
            raise
