"""Running a study: its chunks trained one after the other and kept as they finish, and what its folder ends with."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from optlab.algebra.spellings import spelled
from optlab.lab import display, provenance, results
from optlab.lab.errors import StudyError
from optlab.lab.folder import CONTINUES, OTHERWISE
from optlab.lab.kept import InMemory, Kept, opened
from optlab.lab.one_run import NEVER
from optlab.lab.plan import Chunk, chunks, runs_at_once
from optlab.lab.programs import Programs
from optlab.lab.progress import Progress
from optlab.lab.study import Study
from optlab.lab.tasks import Task


@spelled("lab.run")
def run(
    study: Study,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    *,
    overwrite: bool = False,
    command: str | None = None,
) -> xr.Dataset | None:
    """Trains the whole grid; every structure is one program, mapped over cells and seeds, scanned over the steps.

    The runs are cut into chunks that `study.memory` holds, each of them sharded over all devices of the process. The
    processes of `jax.distributed`, if there are several, share the chunks and meet in a folder that all of them see.

    Args:
      folder: keeps each chunk as it finishes, so that the same call continues where this one was ended, and ends with
        the dataset, the figures and the report, as after `optlab study`. One run at a time writes there.
      progress: called after each measurement; by default a bar on a terminal shows it.
      overwrite: replaces what is in the folder, finished or not.
      command: what the report says that it was run by; by default this call.

    Returns:
      The dataset that `results.assemble` describes; None in a process other than the first.

    Raises:
      StudyError: the task does not hold together, one run takes more than the memory, the folder holds a finished study
        or another one, is written by another run, or can't be written.
    """
    if not isinstance(study, Study):
        raise StudyError(f"lab.run: study must be a Study, such as lab.read('decay.toml') gives, got {study!r}")
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise StudyError(f"lab.run: folder must be the name of one, or None, got {folder!r}")
    if progress is not None and not callable(progress):
        raise StudyError(f"lab.run: progress must be a function, called with each measurement, got {progress!r}")
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        show = progress or (stack.enter_context(display.bar()) if first else _silently)
        if folder is None:
            return train(study, InMemory(), show)
        if not os.fspath(folder):
            raise StudyError("the name of a folder is empty")
        if command is None:
            stack.enter_context(_in_the_words_of_python())
        from optlab.lab import report  # draws, which takes a second to import

        place = Path(folder)
        kept = stack.enter_context(opened(place, display.say))
        if not first:
            return train(study, kept, show)
        report.begin(place, overwrite, lambda: provenance.decided(study, study.make_task()).values)
        data = train(study, kept, display.announcing(show, place))
        assert data is not None
        data.attrs |= {} if command is None else {"command": command}
        try:
            report.write(data, place)
        except StudyError as error:
            raise StudyError(f"{error}; {CONTINUES}") from None
        kept.forget()
        return data


@contextlib.contextmanager
def _in_the_words_of_python() -> Iterator[None]:
    try:
        yield
    except StudyError as error:
        raise StudyError(str(error).replace(OTHERWISE, "give overwrite=True, or another folder")) from None


def _silently(progress: Progress) -> None:
    del progress


def train(study: Study, kept: Kept, progress: Callable[[Progress], None] = _silently) -> xr.Dataset | None:
    """Trains what `kept` lacks of the study, and gives the dataset of all; None in a process other than the first."""
    began = time.perf_counter()
    task = study.make_task()
    programs = Programs(study, task)
    find = lambda: runs_at_once(study, task, programs.bytes)  # noqa: E731
    cut = chunks(study, kept.begin(lambda: provenance.decided(study, task), find))
    _train_chunks(study, task, programs, cut, kept, progress)
    kept.wait(len(cut))
    if jax.process_index() > 0:
        return None
    parts = [
        results.Part(chunk.structure, chunk.seeds, chunk.cells, kept.load(number, chunk))
        for number, chunk in enumerate(cut)
    ]
    seconds = {"seconds": round(time.perf_counter() - began, 1)}
    return results.assemble(study, task, parts, provenance.attributes(study, task) | seconds | kept.attributes())


def _train_chunks(
    study: Study,
    task: Task,
    programs: Programs,
    cut: list[Chunk],
    kept: Kept,
    progress: Callable[[Progress], None],
) -> None:
    """Trains those chunks that are this process's part and not finished yet."""
    finished = [number for number in range(len(cut)) if kept.holds(number)]
    done = resumed = sum(cut[number].runs() for number in finished)
    diverged = sum(_diverged(kept.load(number, cut[number])) for number in finished)
    progress(Progress("", done, 0.0, study.runs(), resumed, diverged))
    count, index = jax.process_count(), jax.process_index()
    mine = range(len(cut) * index // count, len(cut) * (index + 1) // count)
    for number in sorted(set(mine) - set(finished)):
        chunk = cut[number]
        measurements, measured = [], {}
        for measured in programs.run(chunk):
            measurements.append(measured)
            underway = chunk.runs() * len(measurements) * task.every / task.steps
            failed = diverged + _diverged(measured)
            progress(Progress(str(chunk.structure), done, underway, study.runs(), resumed, failed))
        curves = {name: np.stack([each[name] for each in measurements], axis=2) for name in measured}
        kept.save(number, chunk, curves | {"diverged_at": measured["diverged_at"]})
        done, diverged = done + chunk.runs(), diverged + _diverged(measured)


def _diverged(arrays: Mapping[str, np.ndarray]) -> int:
    return int((arrays["diverged_at"] != NEVER).sum())
