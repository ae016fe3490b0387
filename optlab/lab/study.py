"""What a study is: one task under every structure of the decay, over a grid of rates, decays and seeds."""

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import optax

from optlab.algebra.combinators import chain, require_transform
from optlab.algebra.hyperparameters import check
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform
from optlab.decay.sites import COUPLINGS, GATES, SITES, TARGETS, Decay
from optlab.lab.errors import StudyError
from optlab.lab.schedules import SCHEDULES, schedule
from optlab.lab.tasks import TASKS, Task
from optlab.lab.tasks.task import whole
from optlab.optimizers.cores import CORES, hyperparameters

NATURAL = "natural"
BUNDLED = Path(__file__).parent / "studies"
TINIEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)  # what is smaller, XLA takes for 0

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

# What people call it, and what it is here.
_KEYS = {
    "beta1": "b1", "beta2": "b2", "betas": "b1 and b2", "decay": "weight_decays", "decays": "weight_decays",
    "epsilon": "eps", "learning_rate": "learning_rates", "lr": "learning_rates", "lrs": "learning_rates",
    "momentum": "b1", "optimizer": "core", "seed": "seeds", "wd": "weight_decays", "weight_decay": "weight_decays",
}  # fmt: skip
_CORES = {
    "adam_l2": "the core adam with the site gradient",
    "adams": "the core adam with the site update and the gate stable",
    "adamw": "the core adam with the site update",
    "adamw_independent": "the core adam with the site step",
    "lionw": "the core lion with the site update",
    "nadamw": "the core nadam with the site update",
    "sgdw": "the core heavy_ball with the site update",
}


class Structure(NamedTuple):
    """Where the decay acts, what multiplies it, what holds it back: what has a program of its own."""

    site: str
    coupling: str = NATURAL
    gate: str = "none"

    def __str__(self) -> str:
        special = [name for name, usual in zip(self[1:], Structure("")[1:], strict=True) if name != usual]
        return " ".join([self.site, *special])

    def decay(self, target: str) -> Decay:
        """The specification, toward `target`, which the site `none` has no use for.

        Raises:
          ValueError: the combination has no meaning.
        """
        coupling = None if self.coupling == NATURAL else self.coupling
        return Decay(self.site, coupling, self.gate, target if self.site != "none" else "zero")


@spelled(also={name: (ours.replace(" and ", " "),) for name, ours in _KEYS.items()})
@dataclasses.dataclass(frozen=True)
class Study:
    """A core on a task, with decay at every one of `sites` under every coupling and gate that has a meaning there.

    Attributes:
      task: a name in `optlab.lab.tasks.TASKS`, or a `Task`.
      sites, couplings, gates: see `optlab.Decay`; the coupling `natural` is the site's own.
      target: see `optlab.Decay`, of all structures.
      learning_rates, weight_decays: the axes of the grid; each >= 0, and a number that float32 holds.
      seeds: how many; run `s` draws its data, initial weights and batches from seed `s`, whatever its cell.
      steps: updates per run; None for the task's own number.
      every: steps between measurements, a divisor of the steps; None for the task's own number.
      schedule: a name in `optlab.lab.schedules.SCHEDULES`, in place of the task's own; None for that.
      measure_decay: whether to measure, beside every run, how much of its steps was decay; see `optlab.lab.record`.
      core: a name in `optlab.optimizers.cores.CORES`, or a transform of optlab or optax, which `Decay.apply_to` then
        places the decay in.
      b1, b2, eps: of a core that is given by name; None for its default, which the `b2` of `rmsprop` does not have.
      memory: what the runs that are trained at once may take, over all devices of a process together; bytes, or a text
        such as `2GiB`.

    Raises:
      StudyError: a value of the wrong kind, an unknown name, an empty axis, or no structure that has a meaning.
    """

    task: str | Task = "digits"
    sites: tuple[str, ...] = ("none", "gradient", "first_moment", "second_moment", "direction", "update", "step")
    couplings: tuple[str, ...] = (NATURAL,)
    gates: tuple[str, ...] = ("none",)
    target: str = "zero"
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    weight_decays: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    seeds: int = 10
    steps: int | None = None
    every: int | None = None
    schedule: str | None = None
    measure_decay: bool = False
    core: str | optax.GradientTransformation = "adam"
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    memory: int | str = "2GiB"

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            if callable(self.task):
                name = getattr(self.task, "__name__", repr(self.task))
                raise StudyError(
                    f"the task is the function {name}: call it, {name}(...), or give a name, such as 'digits'"
                )
            _require_known("task", [self.task], TASKS)
        for axis, known in (("sites", SITES), ("couplings", (NATURAL, *COUPLINGS)), ("gates", GATES)):
            _require_known(axis.removesuffix("s"), self._axis(axis), known)
        _require_known("target", [self.target], TARGETS)
        if self.schedule is not None:
            _require_known("schedule", [self.schedule], SCHEDULES)
        for axis in ("learning_rates", "weight_decays"):
            object.__setattr__(self, axis, _numbers(axis, self._axis(axis)))
        for name in ("seeds", "steps", "every"):
            if (number := getattr(self, name)) is not None or name == "seeds":
                try:
                    object.__setattr__(self, name, whole(name, number))
                except ValueError as error:
                    raise StudyError(str(error)) from None
        if not isinstance(self.measure_decay, bool):
            raise StudyError(f"measure_decay must be true or false, got {self.measure_decay!r}")
        if isinstance(self.task, Task):
            if self.steps is not None:
                raise StudyError(f"steps belong to the task {self.task.name}: leave them out, or change the task's")
            self.make_task()
        self.memory_bytes()
        refused = self.refused()
        if not self.structures():
            raise StudyError(next(iter(refused.values())))

    def _axis(self, name: str) -> tuple[Any, ...]:
        """The values of an axis, which become a tuple if they were a list."""
        values = getattr(self, name)
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, list | tuple | range):
            raise StudyError(f"{name} must be a list, got {values!r}")
        if not values:
            raise StudyError(f"a study needs at least one of {name}")
        if any(value in values[:number] for number, value in enumerate(values)):
            raise StudyError(f"{name} holds a value twice: {values}")
        object.__setattr__(self, name, tuple(values))
        return tuple(values)

    def make_task(self) -> Task:
        """The task, with this study's numbers of steps and its schedule.

        Raises:
          StudyError: they do not fit each other or the task, or the task does not hold together.
        """
        try:
            task = self.task
            if not isinstance(task, Task):
                task = TASKS[task](**({} if self.steps is None else {"steps": self.steps}))
            if self.every is not None:
                task = dataclasses.replace(task, every=self.every)
            if self.schedule is not None:
                instead = " in place of the task's own" if task.schedule is not None else ""
                said = f"{task.description}; learning rate by the schedule {self.schedule}{instead}"
                task = dataclasses.replace(task, description=said, schedule=schedule(self.schedule, task.steps))
            task.check()
            return task
        except ValueError as error:
            raise StudyError(str(error)) from None

    def make_core(self) -> Transform:
        """What every structure starts from.

        Raises:
          StudyError: a hyperparameter that the core does not have or that is out of range, or no such core.
        """
        given = self._given()
        if not isinstance(self.core, str):
            try:
                require_transform("the core", self.core)
            except TypeError as error:
                raise StudyError(str(error)) from None
            if given:
                raise StudyError(f"{', '.join(given)} belong to a core that is given by name; write them into the core")
            return self.core if isinstance(self.core, Transform) else chain(self.core)
        _require_known("core", [self.core], CORES, _CORES)
        known = hyperparameters(self.core)
        for name in given:
            if name not in known:
                raise StudyError(f"the core {self.core} has no {name}; it takes {', '.join(known) or 'nothing'}")
        values: dict[str, Any] = known | given
        try:
            for name, value in values.items():
                if value is None:
                    raise StudyError(
                        f"the core {self.core} needs {name}: it has no default, because libraries disagree (see "
                        f"optlab.{self.core})"
                    )
                check(f"the core {self.core}", name, value)
        except (ValueError, TypeError) as error:
            raise StudyError(str(error)) from None
        return CORES[self.core](**values)

    def _given(self) -> dict[str, Any]:
        """The hyperparameters of the core that do not stay at its defaults."""
        return {name: value for name in ("b1", "b2", "eps") if (value := getattr(self, name)) is not None}

    def core_text(self) -> str:
        """The core and its hyperparameters, as a report says them."""
        core = self.make_core()
        if not isinstance(self.core, str):
            return str(core)
        values: dict[str, Any] = hyperparameters(self.core) | self._given()
        return f"{self.core}({', '.join(f'{name}={float(value)!r}' for name, value in values.items())})"

    def _combinations(self) -> list[Structure]:
        """Every site, coupling and gate; `none` once, because there is nothing to couple or to gate."""
        return [
            Structure(site, coupling, gate)
            for site in self.sites
            for coupling in (self.couplings if site != "none" else (NATURAL,))
            for gate in (self.gates if site != "none" else ("none",))
        ]

    def refused(self) -> dict[Structure, str]:
        """The combinations that are left out, with the reason."""
        core, reasons = self.make_core(), {}
        for structure in self._combinations():
            try:
                structure.decay(self.target).apply_to(core, 0.1, 0.1)
            except (ValueError, TypeError) as error:
                reasons[structure] = str(error)
        return reasons

    def structures(self) -> tuple[Structure, ...]:
        """The combinations that are trained."""
        refused = self.refused()
        return tuple(structure for structure in self._combinations() if structure not in refused)

    def decays(self, structure: Structure) -> tuple[float, ...]:
        """What `structure` has to be run at: without decay, the columns of the grid are one and the same."""
        return self.weight_decays if structure.site != "none" else self.weight_decays[:1]

    def cells(self, structure: Structure) -> list[tuple[float, float]]:
        """The learning rate and the decay of every cell of the grid of `structure`."""
        return [(rate, decay) for rate in self.learning_rates for decay in self.decays(structure)]

    def runs(self) -> int:
        """How many networks are trained."""
        return self.seeds * sum(len(self.cells(structure)) for structure in self.structures())

    def memory_bytes(self) -> int:
        """`memory` as a number.

        Raises:
          StudyError: it is no size.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?i?B)?", str(self.memory).strip())
        if not isinstance(self.memory, bool) and match is not None and (match[2] or "B") in _UNITS:
            size = float(match[1]) * _UNITS[match[2] or "B"]
            if 1 <= size < math.inf:
                return int(size)
        raise StudyError(f"memory must be a size such as 2GiB or 500MB, got {self.memory!r}")

    def definition(self, task: Task) -> dict[str, Any]:
        """All that decides the numbers, and how they are cut into chunks, as JSON has it; of the task it made."""
        lists = {name: list(getattr(self, name)) for name in ("sites", "couplings", "gates")}
        grids = {name: list(getattr(self, name)) for name in ("learning_rates", "weight_decays")}
        own = {"task": task.name, "description": task.description, "steps": task.steps, "every": task.every}
        more = {"target": self.target, "seeds": self.seeds, "core": self.core_text(), "memory": self.memory_bytes()}
        return own | lists | grids | more | {"schedule": self.schedule, "measure_decay": self.measure_decay}

    def __str__(self) -> str:
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
        if isinstance(self.task, Task):
            changed["task"] = self.task.name
        return f"Study({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def find(name: str | Path) -> Path:
    """The TOML file of a study that comes with optlab, or the one that `name` is the path of.

    Raises:
      StudyError: it is neither.
    """
    bundled = {path.stem: path for path in sorted(BUNDLED.glob("*.toml"))}
    if Path(name).suffix == ".toml":
        return Path(name)
    if (path := bundled.get(str(name))) is None:
        raise StudyError(f"unknown study {name!r}; known are {', '.join(bundled)}; or give the path of a .toml file")
    return path


@spelled("lab.read")
def read(path: str | Path) -> Study:
    """The study that a TOML file describes: one key per attribute of `Study`, those that are left out as there.

    Raises:
      StudyError: the file can't be read, is not TOML, or describes no study.
    """
    if not isinstance(path, str | Path):
        raise StudyError(f"lab.read: path must be that of a TOML file, got {path!r}; Study(...) is made of values")
    try:
        table = tomllib.loads(Path(path).read_text("utf-8-sig"))  # editors of some systems begin with a mark
    except OSError as error:
        raise StudyError(f"{path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not TOML: {error}") from None
    try:
        _require_known("key", list(table), [field.name for field in dataclasses.fields(Study)], _KEYS)
        return Study(**table)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None


def _plain(value: Any) -> Any:
    """A number of NumPy or JAX as one of Python."""
    return value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value


def _numbers(name: str, values: Sequence[Any]) -> tuple[float, ...]:
    """`values`, made sure to be numbers >= 0 that stay what they are, and apart from each other, in float32."""
    found: dict[np.float32, Any] = {}
    for value in map(_plain, values):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise StudyError(f"{name} must be finite and >= 0, got {value!r}")
        if value and not TINIEST <= value <= LARGEST:
            raise StudyError(
                f"{name} must be 0 or from {TINIEST:.2g} to {LARGEST:.2g}, as float32 holds them, got {value!r}"
            )
        same = found.setdefault(np.float32(value), value)
        if same is not value:
            raise StudyError(f"{name} holds a value twice, in float32: {same!r} and {value!r}")
    return tuple(map(float, found.values()))


def _require_known(
    kind: str,
    names: Sequence[Any],
    known: Sequence[str] | Mapping[str, Any],
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuses what is not `known`, and says what it is here if it has another name `elsewhere`."""
    for name in names:
        if not isinstance(name, str) or name not in known:
            here = f"; {name} is {elsewhere[name]}" if isinstance(name, str) and name in elsewhere else ""
            raise StudyError(f"unknown {kind} {name!r}; known are {', '.join(known)}{here}")
