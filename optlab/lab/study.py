"""A study: one task under every site of the decay, over a grid of rates, decays and seeds."""

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from optlab.algebra import chain
from optlab.ema import bias_correct, scale_by_ema
from optlab.lab.tasks import TASKS, Task
from optlab.rms import scale_by_rms
from optlab.sites import Decay
from optlab.transform import Transform

SITES = ("none", "gradient", "first_moment", "second_moment", "direction", "update", "step")
AXES = ("site", "learning_rate", "weight_decay", "seed")


class StudyError(ValueError):
    """A study that can't be run as asked; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Adam on `task` with decay at every one of `sites`.

    Attributes:
      task: a name in `optlab.lab.tasks.TASKS`, or a `Task` of your own.
      sites: of `SITES`; see `optlab.Decay`.
      learning_rates, weight_decays: the axes of the grid; each >= 0.
      seeds: how many; run `s` draws its data, initial weights and batches from seed `s`, whatever its cell.
      steps: updates per run; None for the task's own number, which a `Task` of your own must keep.
      b1, b2, eps: Adam's; see `scale_by_ema`, `scale_by_rms`.

    Raises:
      StudyError: an unknown task or site, an empty axis, or `steps` beside a `Task`.
    """

    task: str | Task = "digits"
    sites: tuple[str, ...] = SITES
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    weight_decays: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    seeds: int = 10
    steps: int | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if isinstance(self.task, str):
            _require_known("task", [self.task], TASKS)
        elif self.steps is not None:
            raise StudyError(f"steps belong to the task {self.task.name}: leave them out, or change the task's")
        else:
            self.task.check()
        for axis in ("sites", "learning_rates", "weight_decays"):
            if isinstance(getattr(self, axis), str):
                raise StudyError(f"{axis} must be a tuple, got {getattr(self, axis)!r}")
            if not getattr(self, axis):
                raise StudyError(f"a study needs at least one of {axis}")
            if len(set(getattr(self, axis))) != len(getattr(self, axis)):
                raise StudyError(f"{axis} holds a value twice: {getattr(self, axis)}")
        _require_known("site", self.sites, SITES)
        for axis in ("learning_rates", "weight_decays"):
            for value in getattr(self, axis):
                if not 0 <= value < float("inf"):
                    raise StudyError(f"{axis} must be finite and >= 0, got {value}")
        for number, name in ((self.seeds, "seeds"), (self.steps, "steps")):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise StudyError(f"{name} must be a whole number from 1, got {number}")

    def make_task(self) -> Task:
        """The task, with this study's number of steps."""
        if isinstance(self.task, Task):
            return self.task
        return TASKS[self.task]() if self.steps is None else TASKS[self.task](steps=self.steps)

    def core(self) -> Transform:
        """The quotient that every site starts from."""
        return scale_by_rms(self.b2, self.eps, numerator=chain(scale_by_ema(self.b1), bias_correct(self.b1)))

    def decays(self, site: str) -> tuple[float, ...]:
        """The decays that `site` has to be run at: without decay, the columns of the grid are one and the same."""
        return self.weight_decays if site != "none" else self.weight_decays[:1]

    def runs(self) -> int:
        """How many networks are trained."""
        return sum(len(self.learning_rates) * len(self.decays(site)) * self.seeds for site in self.sites)


def _require_known(kind: str, names: Sequence[str], known: Sequence[str] | Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise StudyError(f"unknown {kind} {name!r}; known are {', '.join(known)}")


class Start(NamedTuple):
    """What a run begins with; drawn from its seed alone, so that the cells of a grid share it."""

    data: Any
    params: Any
    batch_key: jax.Array


def start(task: Task, seed: Any) -> Start:
    """The start of the run with this seed, an int32 scalar."""
    data_key, init_key, batch_key = jax.random.split(jax.random.key(seed), 3)
    return Start(task.data(data_key), task.init(init_key), batch_key)


def train(task: Task, tx: optax.GradientTransformation, begin: Start) -> Any:
    """The params after the task's number of steps; the hyperparameters of `tx` may be traced."""

    def step(carry: tuple[Any, Any], number: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        grads = jax.grad(task.loss)(params, task.batch(begin.data, begin.batch_key, number))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    steps = jnp.arange(task.steps, dtype=jnp.int32)
    (params, _), _ = jax.lax.scan(step, (begin.params, tx.init(begin.params)), steps)
    return params


def measure(task: Task, params: Any, data: Any) -> dict[str, jax.Array]:
    """The task's metrics, the weight norm, and whether the run that led to `params` diverged."""
    metrics = dict(task.metrics(params, data))
    norm = optax.tree.norm(params)
    sound = jnp.isfinite(norm) & (metrics["train_loss"] <= task.divergence)
    return metrics | {"weight_norm": norm, "diverged": ~sound}


def run(study: Study, progress: Callable[[str, int], None] = lambda site, runs: None) -> xr.Dataset:
    """Runs the whole grid; every site is one program, mapped over the cells and scanned over the steps.

    Args:
      progress: called as `progress(site, runs)` after each seed of each site.

    Returns:
      A dataset over `AXES`, with the task's metrics, `weight_norm` and `diverged` for every run.
    """
    began = time.perf_counter()
    task = study.make_task()
    start_run = jax.jit(partial(start, task))
    starts = [start_run(jnp.int32(seed)) for seed in range(study.seeds)]
    measure_cells = jax.jit(jax.vmap(partial(measure, task), in_axes=(0, None)))
    shape = (len(study.learning_rates), len(study.weight_decays))

    def on_grid(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values.reshape(len(study.learning_rates), -1), shape)

    sites = []
    for site in study.sites:
        axes = np.meshgrid(study.learning_rates, study.decays(site), indexing="ij")
        rate, decay = (jnp.float32(axis.ravel()) for axis in axes)
        train_cells = jax.jit(jax.vmap(_cell(study, task, site), in_axes=(0, 0, None)))
        seeds = []
        for begin in starts:
            metrics = measure_cells(train_cells(rate, decay, begin), begin.data)
            seeds.append(jax.tree.map(on_grid, jax.device_get(metrics)))
            progress(site, len(rate))
        sites.append(jax.tree.map(lambda *values: np.stack(values, axis=-1), *seeds))
    variables = {name: (AXES, np.stack([site[name] for site in sites])) for name in sites[0]}
    coordinates = {
        "site": list(study.sites),
        "learning_rate": list(study.learning_rates),
        "weight_decay": list(study.weight_decays),
        "seed": np.arange(study.seeds),
    }
    seconds = {"seconds": round(time.perf_counter() - began, 1)}
    return xr.Dataset(variables, coordinates, attrs=_provenance(study, task) | seconds)


def _cell(study: Study, task: Task, site: str) -> Callable[[jax.Array, jax.Array, Start], Any]:
    """One run of the grid of `site`: `(learning_rate, weight_decay, start) -> params`."""

    def cell(learning_rate: jax.Array, weight_decay: jax.Array, begin: Start) -> Any:
        return train(task, Decay(site).apply_to(study.core(), learning_rate, weight_decay), begin)

    return cell


def _provenance(study: Study, task: Task) -> dict[str, Any]:
    device = jax.devices()[0]
    packages = ("optlab", "jax", "jaxlib", "optax", "flax", "scikit-learn")
    return {
        "command": f"optlab.lab.study.run({study})",
        "runs": study.runs(),
        "task": task.name,
        "description": task.description,
        "steps": task.steps,
        "b1": study.b1,
        "b2": study.b2,
        "eps": study.eps,
        "device": f"{jax.device_count()} x {device.device_kind}, {platform.machine()} with {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "python": platform.python_version(),
    }
