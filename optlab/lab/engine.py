"""Running a study: one program per structure, mapped over the grid, in chunks that are kept as they finish."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from optlab.lab import provenance, results
from optlab.lab.errors import StudyError
from optlab.lab.folder import Store
from optlab.lab.kept import POLL_SECONDS, Kept
from optlab.lab.one_run import NEVER
from optlab.lab.plan import chunks, runs_at_once
from optlab.lab.programs import Programs
from optlab.lab.progress import Progress
from optlab.lab.study import Study


def run(
    study: Study, folder: Path | None = None, progress: Callable[[Progress], None] = lambda progress: None
) -> xr.Dataset | None:
    """Trains the whole grid; every structure is one program, mapped over cells and seeds, scanned over the steps.

    The runs are cut into chunks that `study.memory` holds, each of them sharded over all devices of the process. The
    processes of `jax.distributed`, if there are several, share the chunks and meet in a folder that all of them see.

    Args:
      folder: keeps each chunk as it finishes, so that the same call continues where this one was ended. `results.save`
        there and `forget` are left to the caller.
      progress: called after each measurement.

    Returns:
      The dataset that `results.assemble` describes; None in a process other than the first.

    Raises:
      StudyError: the task does not hold together, one run takes more than the memory, the folder holds another study,
        or it can't be written.
    """
    began = time.perf_counter()
    task = study.make_task()
    if folder is None and jax.process_count() > 1:
        raise StudyError("several processes need a folder that all of them see")
    programs = Programs(study, task)
    about = provenance.about(study, task)
    kept = Kept(about, folder)
    cut = chunks(study, kept.limit(lambda: runs_at_once(study, task, programs.bytes)))
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
    while kept.begun() and not all(kept.holds(number) for number in range(len(cut))):
        time.sleep(POLL_SECONDS)
    if index > 0:
        return None
    parts = [
        results.Part(chunk.structure, chunk.seeds, chunk.cells, kept.load(number, chunk))
        for number, chunk in enumerate(cut)
    ]
    seconds = {"seconds": round(time.perf_counter() - began, 1)}
    return results.assemble(study, task, parts, provenance.attributes(study, task, about) | seconds)


def forget(folder: Path) -> None:
    """Deletes the chunks of a study, which are in its results or not wanted any more."""
    Store(folder).remove()


def _diverged(arrays: Mapping[str, np.ndarray]) -> int:
    return int((arrays["diverged_at"] != NEVER).sum())
