"""Runs of a transform, to check on them what was read: leaves of several shapes, gradients given and answering."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from optlab.algebra.transform import as_read
from optlab.equations.arrays import Program
from optlab.equations.claims import Driven, Shape
from optlab.outside.peers import lenient_float64

LEAVES: Mapping[str, Shape] = {"bias": (3,), "dense": (4, 3), "conv": (2, 3, 2, 4), "embedding": (130, 129)}
"""Both sides of the sizes at which optax begins to factor, and of the ranks at which optimizers of matrices begin."""

TYPICAL: Mapping[str, float] = {
    **dict.fromkeys(("learning_rate", "lr"), 0.1),
    **dict.fromkeys(("weight_decay", "wd"), 0.1),
    **dict.fromkeys(("b1", "decay", "momentum"), 0.8),
    "b2": 0.95,
    "eps": 1e-4,
}
"""Numbers at which every hyperparameter shows."""

STEPS, LONG, FEW = 64, 300, 1000
"""Steps of a run; above how many only leaves of fewer weights are run."""

SCALES = (1e-3, 1.0, 1e3)


class Run(NamedTuple):
    """The weights of all leaves in one row, before the first step and after each, and the gradient of each step."""

    weights: np.ndarray
    gradients: np.ndarray


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of one transform.

    Attributes:
      driven: what was run.
      runs: one of gradients that are given, and one in which they answer to the weights.
      refused: the shapes of the leaves that the transform does not run on, with the reason.
    """

    driven: Driven
    runs: tuple[Run, ...]
    refused: Mapping[Shape, str]

    @property
    def pieces(self) -> list[tuple[Shape, slice]]:
        """Where each leaf stands in a row."""
        return pieces(self.driven.shapes)


class NotRun(ValueError):
    """A transform does not run on gradients and weights alone; the message is what it raises.

    Attributes:
      which: of two that are run beside each other, 0 or 1.
    """

    which: int = 0


def pieces(shapes: Sequence[Shape]) -> list[tuple[Shape, slice]]:
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    return [(shape, slice(end - math.prod(shape), end)) for shape, end in zip(shapes, ends, strict=True)]


def drive(
    tx: optax.GradientTransformation,
    values: Mapping[str, float],
    steps: int = STEPS,
    *,
    like: Runs | None = None,
    one_by_one: bool = False,
) -> Runs:
    """Runs a transform on the tree of `LEAVES`, or on each by itself if told so, or where it refuses their tree.

    Args:
      values: of the hyperparameters that it was made with, for the record.
      like: runs of another transform, whose leaves and gradients are given to this one.

    Raises:
      NotRun: it runs on none of them, or not on those of `like`.
    """
    leaves = {path: shape for path, shape in LEAVES.items() if steps <= LONG or math.prod(shape) < FEW}
    with lenient_float64():
        if not one_by_one and (like is None or like.driven.together):
            try:
                return _runs([_Step(tx, leaves)], leaves, steps, values, {}, like)
            except Exception as error:
                if like is not None:
                    raise NotRun(_first_line(error)) from error
        found: dict[str, _Step] = {}
        refused: dict[Shape, str] = {}
        for path, shape in leaves.items():
            try:
                found[path] = _Step(tx, {path: shape}, bare=True)
                _runs([found[path]], {path: shape}, 1, values, {}, None)
            except Exception as error:
                refused[shape] = _first_line(error)
                found.pop(path, None)
        leaves = {path: leaves[path] for path in found}
        if not found or (like is not None and leaves != like.driven.leaves):
            raise NotRun(next(iter(refused.values()), "it runs on other leaves"))
        return _runs(list(found.values()), leaves, steps, values, refused, like)


def beside(
    transforms: tuple[optax.GradientTransformation, optax.GradientTransformation],
    values: tuple[Mapping[str, float], Mapping[str, float]],
    steps: int,
) -> tuple[Runs, Runs]:
    """Runs of two transforms, of the same gradients and on the same leaves.

    Raises:
      NotRun: one of them does not.
    """
    ours = drive(transforms[0], values[0], steps)
    try:
        return ours, drive(transforms[1], values[1], steps, like=ours)
    except NotRun:
        ours = drive(transforms[0], values[0], steps, one_by_one=True)
    try:
        return ours, drive(transforms[1], values[1], steps, like=ours)
    except NotRun as error:
        error.which = 1
        raise


def end_of_one(tx: optax.GradientTransformation, weight: float, gradients: Sequence[float]) -> float:
    """Where steps of the given gradients bring a leaf of one weight."""
    with lenient_float64():
        step = _Step(tx, {"w": (1,)}, bare=True)
        w = np.array([weight])
        state = step.start(w)
        for gradient in gradients:
            w, state = step(np.array([gradient]), state, w)
        return float(w[0])


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"


class _Step:
    """A traced transform of a tree of leaves: its state at the start, and a step from row to row."""

    def __init__(self, tx: optax.GradientTransformation, leaves: Mapping[str, Shape], *, bare: bool = False) -> None:
        tx = as_read(tx)
        shapes = list(leaves.values())
        self.pieces = pieces(shapes)
        self.size = sum(map(math.prod, shapes))
        tree: Any = {path: jax.ShapeDtypeStruct(shape, np.dtype("float64")) for path, shape in leaves.items()}
        self.order = np.argsort(list(leaves)).tolist()  # as JAX flattens a dict
        tree = next(iter(tree.values())) if bare else tree

        def step(gradients: Any, state: Any, weights: Any) -> Any:
            updates, state = tx.update(gradients, state, weights)
            return optax.apply_updates(weights, updates), state

        start, state = jax.make_jaxpr(tx.init, return_shape=True)(tree)
        body, (moved, after) = jax.make_jaxpr(step, return_shape=True)(tree, state, tree)
        if jax.tree.structure(after) != jax.tree.structure(state):
            raise ValueError("its state changes its structure from one step to the next")
        if jax.tree.map(np.shape, moved) != jax.tree.map(np.shape, tree):
            raise ValueError("the weights change their shapes")
        self.init, self.step = Program(start), Program(body)

    def start(self, row: np.ndarray) -> list[Any]:
        return self.init(*self._leaves(row))

    def __call__(self, gradients: np.ndarray, state: list[Any], weights: np.ndarray) -> tuple[np.ndarray, list[Any]]:
        results = self.step(*self._leaves(gradients), *state, *self._leaves(weights))
        moved = np.empty(self.size)
        for place, leaf in zip(self.order, results, strict=False):
            moved[self.pieces[place][1]] = np.reshape(leaf, -1)
        return moved, results[len(self.order) :]

    def _leaves(self, row: np.ndarray) -> list[np.ndarray]:
        parts = [row[place].reshape(shape) for shape, place in self.pieces]
        return [parts[place] for place in self.order]


def _runs(
    parts: Sequence[_Step],
    leaves: Mapping[str, Shape],
    steps: int,
    values: Mapping[str, float],
    refused: Mapping[Shape, str],
    like: Runs | None,
) -> Runs:
    size = sum(part.size for part in parts)
    start, given, answer = draw(size, steps)
    gradients = [lambda step, weights: given[step], answer]
    if like is not None:
        gradients = [lambda step, weights, run=run: run.gradients[step] for run in like.runs]
    runs = tuple(_run(parts, start, gradient, steps) for gradient in gradients)
    moved = max(float(np.max(np.abs(run.weights[[1, -1]] / start - 1))) for run in runs)
    together = len(leaves) > 1 and len(parts) == 1
    driven = Driven(dict(leaves), steps, SCALES, dict(values), together=together, moved=moved)
    return Runs(driven, runs, dict(refused))


Gradient = Callable[[int, np.ndarray], np.ndarray]


@functools.lru_cache(maxsize=4)
def draw(size: int, steps: int) -> tuple[np.ndarray, np.ndarray, Gradient]:
    """Where all runs start; gradients to be given, of sizes around each of `SCALES` in turn, and some of them zero;
    and those of `sum(c*(w - target)**2)/2`, the curvature `c` another one for every weight.
    """
    rng = np.random.default_rng(0)
    start, target = rng.normal(size=size), 3 * rng.normal(size=size)
    given = rng.normal(size=(steps, size)) * 10 ** rng.uniform(-1, 1, (steps, size))
    given *= np.repeat(SCALES, -(-steps // len(SCALES)))[:steps, None]
    given[rng.uniform(size=given.shape) < 0.1] = 0
    curvature = 10 ** rng.uniform(-2, 0, size)
    return start, given, lambda step, weights: curvature * (weights - target)


def _run(parts: Sequence[_Step], start: np.ndarray, gradient: Gradient, steps: int) -> Run:
    places = pieces([(part.size,) for part in parts])
    states = [part.start(start[place]) for part, (_, place) in zip(parts, places, strict=True)]
    weights, gradients = np.empty((steps + 1, start.size)), np.empty((steps, start.size))
    weights[0] = start
    for step in range(steps):
        gradients[step] = gradient(step, weights[step])
        for number, (part, (_, place)) in enumerate(zip(parts, places, strict=True)):
            moved, states[number] = part(gradients[step][place], states[number], weights[step][place])
            weights[step + 1][place] = moved
    return Run(weights, gradients)


def parted(wanted: Run, weights: np.ndarray, tolerance: float) -> np.ndarray:
    """After which steps which weights of another run are elsewhere, relative to how far each has moved."""
    ours = wanted.weights
    with np.errstate(all="ignore"):
        size, apart = np.abs(ours), np.abs(ours - weights)
        if (apart <= 1e-12 * size).all() and (size < 1e200).all():
            return np.zeros(ours.shape, bool)
        allowed = np.maximum.accumulate(np.abs(ours - ours[0]), axis=0)
        allowed *= tolerance
        allowed += 1e-12 * np.maximum(size, size[0])
        seen = np.logical_and.accumulate(size < 1e200, axis=0)  # overflows come a step sooner or later
        far = ~(apart <= allowed) & seen
    far[1] |= ~seen[1]
    return far


def first_apart(far: np.ndarray, place: slice) -> int | None:
    """The first step after which a leaf is elsewhere."""
    steps = np.flatnonzero(far[:, place].any(axis=1))
    return int(steps[0]) if len(steps) else None
