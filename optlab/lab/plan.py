"""The plan of a study: chunks of runs that are trained at once, no more than the memory holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optlab.lab.errors import StudyError
from optlab.lab.one_run import Carry, start, treatment
from optlab.lab.study import Structure, Study
from optlab.lab.tasks import Task

CPU_RUNS = 64  # per device at once; on CPUs more is slower per run, because weights and state leave the caches


class Shape(NamedTuple):
    """How many seeds and cells a program trains at once."""

    seeds: int
    cells: int


class Chunk(NamedTuple):
    """A part of the grid of one structure that is trained at once, and kept when it is finished."""

    structure: Structure
    shape: Shape
    seeds: tuple[int, int]
    cells: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.structure} seeds {self.seeds[0]}:{self.seeds[1]} cells {self.cells[0]}:{self.cells[1]}"

    def runs(self) -> int:
        return (self.seeds[1] - self.seeds[0]) * (self.cells[1] - self.cells[0])


def shape_of(study: Study, structure: Structure, limit: int) -> Shape:
    """Whole grids of seeds where `limit` runs hold one, parts of equal size of one grid where they don't."""
    cells = len(study.cells(structure))
    parts = -(-cells // limit)
    if parts > 1:
        return Shape(1, -(-cells // parts))
    return Shape(-(-study.seeds // -(-study.seeds // min(study.seeds, limit // cells))), cells)


def chunks(study: Study, limit: int) -> list[Chunk]:
    """The study, cut into chunks of no more than `limit` runs, the same however much of it is finished."""
    return [
        Chunk(structure, shape, seeds, cells)
        for structure in study.structures()
        for shape in [shape_of(study, structure, limit)]
        for seeds in _cut(study.seeds, shape.seeds)
        for cells in _cut(len(study.cells(structure)), shape.cells)
    ]


def _cut(total: int, size: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + size, total)) for begin in range(0, total, size)]


def runs_at_once(study: Study, task: Task, bytes_of: Callable[[Structure, Shape], int]) -> int:
    """The most runs of a chunk: what the memory holds of the structure with the largest state, by `Programs.bytes`.

    Raises:
      StudyError: not even one.
    """
    memory, devices = study.memory_bytes(), jax.local_devices()

    def carried(structure: Structure) -> int:
        def launch(seed: Any) -> Carry:
            params = start(task, seed).params
            return treatment(study, task, structure, 0.1, 0.1, params).launch(params)

        leaves = jax.tree.leaves(jax.eval_shape(launch, jax.ShapeDtypeStruct((), jnp.int32)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    heaviest = max(study.structures(), key=lambda structure: (len(study.cells(structure)), carried(structure)))
    limit = max(1, min(-(-study.runs() // jax.process_count()), memory // max(1, carried(heaviest))))
    if devices[0].platform == "cpu":
        limit = min(limit, CPU_RUNS * len(devices))
    while True:
        shape = shape_of(study, heaviest, limit)
        needed = bytes_of(heaviest, shape)
        if needed <= memory:
            return limit
        runs = shape.seeds * shape.cells
        if runs == 1:
            raise StudyError(
                f"memory is {memory:,} bytes, but one run on each of {len(devices)} devices takes {needed:,}; give more"
            )
        limit = min(runs - 1, max(1, runs * memory // needed))
