"""Running a study: one program per structure, mapped over the grid, in chunks that are kept as they finish."""

import functools
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optlab.decay.sites import Decay
from optlab.lab import record, results
from optlab.lab.derivations import as_text, formulas
from optlab.lab.folder import Store
from optlab.lab.study import Structure, Study, StudyError
from optlab.lab.tasks import Task

CPU_RUNS = 64  # per device at once; on CPUs more is slower per run, because weights and state leave the caches
RUN_ONCE: dict[str, Any] = {"xla_backend_optimization_level": 1}  # of programs that take longer to compile than to run
NEVER = -1
_POLL_SECONDS = 0.2
_PLAN_SECONDS = 600


# One run --------------------------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """What a run begins with; drawn from its seed alone, so that the cells of a grid share it."""

    data: Any
    params: Any
    batch_key: jax.Array


def start(task: Task, seed: Any) -> Start:
    """The start of the run with this seed, an int32 scalar."""
    data_key, init_key, batch_key = jax.random.split(jax.random.key(seed), 3)
    return Start(task.data(data_key), task.init(init_key), batch_key)


class Carry(NamedTuple):
    """A run under way.

    Attributes:
      diverged_at: after how many updates its loss was first out of bounds, or `NEVER`.
      plain_state: of `Treatment.plain`.
    """

    params: Any
    state: Any
    diverged_at: jax.Array
    plain_state: Any = None


class Treatment(NamedTuple):
    """What a structure does to training at one cell.

    Attributes:
      penalty: what it adds to the loss.
      tx: the transform of the gradient.
      target: the weights that decay pulls towards; None for zero.
      measured: whether to measure how much of a step is decay.
      plain: `tx` without decay, to measure by; None where `tx` has none, or nothing is measured.
    """

    penalty: Callable[[Any], jax.Array]
    tx: optax.GradientTransformation
    target: Any
    measured: bool
    plain: optax.GradientTransformation | None

    def launch(self, params: Any) -> Carry:
        """The run that begins with these weights."""
        plain_state = None if self.plain is None else self.plain.init(params)
        return Carry(params, self.tx.init(params), jnp.int32(NEVER), plain_state)


def treatment(
    study: Study, task: Task, structure: Structure, learning_rate: Any, weight_decay: Any, params: Any
) -> Treatment:
    """The hyperparameters may be traced; `params` are those that the run begins with."""
    decay, core = structure.decay(study.target), study.make_core()

    def place(decay: Decay) -> optax.GradientTransformation:
        return decay.apply_to(core, learning_rate, weight_decay, schedule=task.schedule)

    return Treatment(
        decay.penalize(lambda params: jnp.zeros(()), weight_decay, init_params=params),
        place(decay),
        params if decay.target == "init" else None,
        study.measure_decay,
        place(Decay("none")) if study.measure_decay and decay.site != "none" else None,
    )


def advance(
    task: Task, treated: Treatment, begin: Start, carry: Carry, first: Any
) -> tuple[Carry, dict[str, jax.Array]]:
    """The run after `task.every` more updates, from number `first`, and how much of them was decay, if it is measured.

    One that has diverged keeps its params.
    """

    def step(carry: Carry, number: jax.Array) -> tuple[Carry, Any]:
        batch = task.batch(begin.data, begin.batch_key, number)
        loss, plain_grads = jax.value_and_grad(task.loss)(carry.params, batch)
        grads = optax.tree.add(plain_grads, jax.grad(treated.penalty)(carry.params))
        diverged_at = _checked(task, carry.diverged_at, loss, number)
        updates, state = treated.tx.update(grads, carry.state, carry.params)
        moved = optax.apply_updates(carry.params, updates)
        params = jax.tree.map(partial(jnp.where, diverged_at == NEVER), moved, carry.params)
        if not treated.measured:
            return Carry(params, state, diverged_at), {}
        plain, plain_state = updates, None
        if treated.plain is not None:
            plain, plain_state = treated.plain.update(plain_grads, carry.plain_state, carry.params)
        away = carry.params if treated.target is None else optax.tree.sub(carry.params, treated.target)
        measured = record.of_step(updates, plain, away), diverged_at == NEVER
        return Carry(params, state, diverged_at, plain_state), measured

    carry, measured = jax.lax.scan(step, carry, first + jnp.arange(task.every, dtype=jnp.int32))
    return carry, record.over_window(*measured) if measured else {}


def _checked(task: Task, diverged_at: jax.Array, loss: jax.Array, updates: Any) -> jax.Array:
    out_of_bounds = ~(jnp.isfinite(loss) & (loss <= task.divergence))
    return jnp.where((diverged_at == NEVER) & out_of_bounds, updates, diverged_at)


def measure(task: Task, params: Any, data: Any) -> dict[str, jax.Array]:
    """The task's metrics and the weight norm."""
    return dict(task.metrics(params, data)) | {"weight_norm": optax.tree.norm(params)}


def _measured(task: Task, begin: Start, params: Any, diverged_at: jax.Array, updates: Any) -> dict[str, jax.Array]:
    """The measurements after so many updates, and `diverged_at`, as they may show what no batch has shown yet."""
    metrics = measure(task, params, begin.data)
    worst = jnp.where(jnp.isfinite(metrics["weight_norm"]), metrics["train_loss"], jnp.inf)
    return metrics | {"diverged_at": _checked(task, diverged_at, worst, updates)}


# Many runs at once ----------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """How many seeds and cells a program trains at once."""

    seeds: int
    cells: int


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
        lowered = jax.jit(jax.vmap(partial(start, self._task))).lower(_abstract(jnp.int32, seeds))
        return _shapes(lowered.out_info), self._compilers.submit(lowered.compile, RUN_ONCE)

    def _make_training(self, structure: Structure, shape: Shape) -> tuple[Future[Any], Future[Any]]:
        """The programs that launch the runs and that advance them."""

        def treated(rate: Any, decay: Any, begin: Start) -> Treatment:
            return treatment(self._study, self._task, structure, rate, decay, begin.params)

        def launch(rate: Any, decay: Any, begin: Start) -> Carry:
            return treated(rate, decay, begin).launch(begin.params)

        def train(rate: Any, decay: Any, begin: Start, carry: Carry, first: Any) -> tuple[Carry, dict[str, jax.Array]]:
            return advance(self._task, treated(rate, decay, begin), begin, carry, first)

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
        measured = self._mapped(shape, partial(_measured, self._task), SEEDS, RUNS, RUNS, SHARED)
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

    def run(self, chunk: "Chunk") -> Iterator[dict[str, np.ndarray]]:
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


# The whole study ------------------------------------------------------------------------------------------------------


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


class Progress(NamedTuple):
    """How far a study is.

    Attributes:
      doing: the structure that is trained.
      done: runs that are finished, those of an earlier start among them.
      underway: runs of the chunk under way, times the share of its steps that are done.
      total: runs of the study.
      resumed: runs that an earlier start had finished.
      diverged: runs seen to diverge so far.
    """

    doing: str
    done: int
    underway: float
    total: int
    resumed: int
    diverged: int


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
    about = _about(study, task)
    kept = _Kept(about, folder)
    cut = chunks(study, kept.limit(lambda: _runs_at_once(study, task, programs)))
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
        time.sleep(_POLL_SECONDS)
    if index > 0:
        return None
    parts = [
        results.Part(chunk.structure, chunk.seeds, chunk.cells, kept.load(number, chunk))
        for number, chunk in enumerate(cut)
    ]
    seconds = {"seconds": round(time.perf_counter() - began, 1)}
    return results.assemble(study, task, parts, _provenance(study, task, about) | seconds)


def forget(folder: Path) -> None:
    """Deletes the chunks of a study, which are in its results or not wanted any more."""
    Store(folder).remove()


class _Kept:
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
        for _ in range(int(_PLAN_SECONDS / _POLL_SECONDS)):
            if (header := self._store.header()) is not None:
                self._store.require_same(self._about)
                return header["limit"]
            time.sleep(_POLL_SECONDS)
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


def _diverged(arrays: Mapping[str, np.ndarray]) -> int:
    return int((arrays["diverged_at"] != NEVER).sum())


def _runs_at_once(study: Study, task: Task, programs: Programs) -> int:
    """The most runs of a chunk: what the memory holds of the structure with the largest state, found by compiling it.

    Raises:
      StudyError: not even one.
    """
    memory, devices = study.memory_bytes(), jax.local_devices()

    def carried(structure: Structure) -> int:
        def launch(seed: Any) -> Carry:
            params = start(task, seed).params
            return treatment(study, task, structure, 0.1, 0.1, params).launch(params)

        leaves = jax.tree.leaves(jax.eval_shape(launch, _abstract(jnp.int32)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    heaviest = max(study.structures(), key=lambda structure: (len(study.cells(structure)), carried(structure)))
    limit = max(1, min(-(-study.runs() // jax.process_count()), memory // max(1, carried(heaviest))))
    if devices[0].platform == "cpu":
        limit = min(limit, CPU_RUNS * len(devices))
    while True:
        shape = shape_of(study, heaviest, limit)
        needed = programs.bytes(heaviest, shape)
        if needed <= memory:
            return limit
        runs = shape.seeds * shape.cells
        if runs == 1:
            raise StudyError(
                f"memory is {memory:,} bytes, but one run on each of {len(devices)} devices takes {needed:,}; give more"
            )
        limit = min(runs - 1, max(1, runs * memory // needed))


def _device() -> str:
    device = jax.devices()[0]
    return f"{jax.local_device_count()} x {device.device_kind}, {platform.machine()} with {os.cpu_count()} cores"


def _versions() -> str:
    packages = ("optlab", "jax", "jaxlib", "optax", "flax", "scikit-learn")
    return ", ".join(f"{name} {version(name)}" for name in packages)


def _about(study: Study, task: Task) -> dict[str, Any]:
    """All that decides the numbers to the last bit."""
    return study.definition(task) | {"device": _device(), "versions": _versions(), "python": platform.python_version()}


def _provenance(study: Study, task: Task, about: Mapping[str, Any]) -> dict[str, Any]:
    said = ("task", "description", "steps", "core", "device", "versions", "python")
    judged = {"objective": task.objective, "reported": task.reported, "maximize": int(task.maximize)}
    own = {"command": f"optlab.lab.run({study})", "runs": study.runs()}
    equations = {"equations": as_text(formulas(study, scheduled=task.schedule is not None))}
    return {name: about[name] for name in said} | judged | own | equations
