"""The compiled programs of a study: one per structure, mapped over seeds and cells, on all devices."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optlab.lab import one_run, record
from optlab.lab.one_run import NEVER, Carry, Start, Treatment
from optlab.lab.plan import Chunk, Shape
from optlab.lab.study import Structure, Study
from optlab.lab.tasks import Task

RUN_ONCE: dict[str, Any] = {"xla_backend_optimization_level": 1}  # of programs that take longer to compile than to run


class _Along(NamedTuple):
    """Which axes of a program an argument has: those of `vmap` over seeds and cells, and of the devices."""

    seeds: int | None
    cells: int | None
    spec: PartitionSpec


SEEDS = _Along(0, None, PartitionSpec("seeds"))
CELLS = _Along(None, 0, PartitionSpec("cells"))
RUNS = _Along(0, 0, PartitionSpec("seeds", "cells"))
SHARED = _Along(None, None, PartitionSpec())


def layout(shape: Shape, devices: int) -> Shape:
    """The grid of devices that leaves the least of them idle, rather along the seeds, which share no data.

    The runs that are left over are padded.
    """
    grids = [Shape(seeds, devices // seeds) for seeds in range(devices, 0, -1) if devices % seeds == 0]
    return min(grids, key=lambda grid: _padded(shape, grid).seeds * _padded(shape, grid).cells)


def _padded(shape: Shape, grid: Shape) -> Shape:
    return Shape(*(-(-size // along) * along for size, along in zip(shape, grid, strict=True)))


class Programs:
    """The compiled programs of a study, on the devices of this process; each is made once, when it is asked for.

    They are traced one after the other and compiled side by side, which takes most of the time of a small study.
    """

    def __init__(self, study: Study, task: Task) -> None:
        self._study, self._task = study, task
        self._devices = jax.local_devices()
        self._compilers = ThreadPoolExecutor()
        self.make_starts = functools.cache(self._make_starts)
        self.make_measure = functools.cache(self._make_measure)
        self.make_training = functools.cache(self._make_training)

    def mesh(self, shape: Shape) -> Mesh:
        """The devices as this shape wants them."""
        return Mesh(np.array(self._devices).reshape(layout(shape, len(self._devices))), ("seeds", "cells"))

    def padded(self, shape: Shape) -> Shape:
        """The shape that the devices share evenly."""
        return _padded(shape, layout(shape, len(self._devices)))

    def sharded(self, shape: Shape, along: _Along) -> NamedSharding:
        return NamedSharding(self.mesh(shape), along.spec)

    def _mapped(self, shape: Shape, function: Callable[..., Any], *along: _Along, donate: int | None = None) -> Any:
        """`function` of one run over all seeds and cells, its arguments `along` these axes, on all devices."""
        cells = jax.vmap(function, in_axes=tuple(argument.cells for argument in along))
        runs = jax.vmap(cells, in_axes=tuple(argument.seeds for argument in along))
        if len(self._devices) > 1:  # on one, this would only keep XLA from using more than one thread
            specs = tuple(argument.spec for argument in along)
            runs = jax.shard_map(runs, mesh=self.mesh(shape), in_specs=specs, out_specs=RUNS.spec, check_vma=False)
        return jax.jit(
            runs,
            in_shardings=tuple(self.sharded(shape, argument) for argument in along),
            out_shardings=self.sharded(shape, RUNS),
            donate_argnums=() if donate is None else (donate,),
        )

    def _make_starts(self, seeds: int) -> tuple[Start, Future[Any]]:
        """The shapes of what so many seeds begin with, and the program."""
        lowered = jax.jit(jax.vmap(partial(one_run.start, self._task))).lower(_abstract(jnp.int32, seeds))
        return _shapes(lowered.out_info), self._compilers.submit(lowered.compile, RUN_ONCE)

    def _make_training(self, structure: Structure, shape: Shape) -> tuple[Future[Any], Future[Any]]:
        """The programs that launch the runs and that advance them."""

        def treated(rate: Any, decay: Any, begin: Start) -> Treatment:
            return one_run.treatment(self._study, self._task, structure, rate, decay, begin.params)

        def launch(rate: Any, decay: Any, begin: Start) -> Carry:
            return treated(rate, decay, begin).launch(begin.params)

        def train(rate: Any, decay: Any, begin: Start, carry: Carry, first: Any) -> tuple[Carry, dict[str, jax.Array]]:
            return one_run.advance(self._task, treated(rate, decay, begin), begin, carry, first)

        seeds, cells = self.padded(shape)
        cell, (begin, _) = _abstract(jnp.float32, cells), self.make_starts(seeds)
        launched = self._mapped(shape, launch, CELLS, CELLS, SEEDS).lower(cell, cell, begin)
        training = self._mapped(shape, train, CELLS, CELLS, SEEDS, RUNS, SHARED, donate=3)
        trained = training.lower(cell, cell, begin, _shapes(launched.out_info), _abstract(jnp.int32))
        return self._compilers.submit(launched.compile), self._compilers.submit(trained.compile)

    def _make_measure(self, shape: Shape) -> Future[Any]:
        seeds, cells = self.padded(shape)
        begin, _ = self.make_starts(seeds)
        params = jax.tree.map(lambda leaf: _abstract(leaf.dtype, seeds, cells, *leaf.shape[1:]), begin.params)
        measured = self._mapped(shape, partial(one_run.measured_at, self._task), SEEDS, RUNS, RUNS, SHARED)
        lowered = measured.lower(begin, params, _abstract(jnp.int32, seeds, cells), _abstract(jnp.int32))
        return self._compilers.submit(lowered.compile)

    def bytes(self, structure: Structure, shape: Shape) -> int:
        """What they take at once over all devices: arguments, results and temporaries, as XLA counts them."""

        def counted(compiled: Future[Any]) -> int:
            memory = compiled.result().memory_analysis()
            held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
            return (held + memory.temp_size_in_bytes) * len(self._devices)

        _, train = self.make_training(structure, shape)
        return max(map(counted, (self.make_measure(shape), train)))

    def run(self, chunk: Chunk) -> Iterator[dict[str, np.ndarray]]:
        """Trains, and gives the measurements over (seeds, cells) after each `task.every` updates.

        Once no run is left that has not diverged nothing changes any more, and nothing is computed. How much of the
        updates was decay, if it is measured, is over (seeds, cells, layers).
        """
        shape, padded = chunk.shape, self.padded(chunk.shape)
        _, draw = self.make_starts(padded.seeds)
        launch, train = (program.result() for program in self.make_training(chunk.structure, shape))
        measure = self.make_measure(shape).result()
        cells, seeds = self._study.cells(chunk.structure)[slice(*chunk.cells)], range(*chunk.seeds)
        rate, decay = (
            jax.device_put(_padded_to(np.array(values, np.float32), padded.cells), self.sharded(shape, CELLS))
            for values in zip(*cells, strict=True)
        )
        begin = draw.result()(_padded_to(np.array(seeds, np.int32), padded.seeds))
        begin = jax.device_put(begin, self.sharded(shape, SEEDS))
        carry = launch(rate, decay, begin)
        measured: dict[str, np.ndarray] = {}
        for first in range(0, self._task.steps, self._task.every):
            if not measured or (measured["diverged_at"] == NEVER).any():
                carry, strength = train(rate, decay, begin, carry, np.int32(first))
                updates = np.int32(first + self._task.every)
                metrics = measure(begin, carry.params, carry.diverged_at, updates)
                carry = carry._replace(diverged_at=metrics["diverged_at"])
                fetched = jax.device_get(metrics | strength)
                measured = {name: values[: len(seeds), : len(cells)] for name, values in fetched.items()}
            else:
                none = {name: np.full_like(measured[name], np.nan) for name in record.NAMES if name in measured}
                measured = measured | none
            yield measured


def _shapes(tree: Any) -> Any:
    """The shapes alone, wherever the arrays will be."""
    return jax.tree.map(lambda leaf: _abstract(leaf.dtype, *leaf.shape), tree)


def _abstract(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _padded_to(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)), mode="edge")
