"""The gradients that black boxes are driven with: every weight is an experiment of its own."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

SCALES = 10.0 ** np.arange(-16, 7)
KINDS = ("steady", "bursty", "fading", "sparse")


@dataclasses.dataclass(frozen=True)
class Probe:
    """Gradients and starting weights, all of them float32 numbers, which no box rounds on their way in.

    Attributes:
      grads: `[steps, weights]`.
      start: `[weights]`.
      scale: of each weight's gradients, `[weights]`.
    """

    grads: np.ndarray
    start: np.ndarray
    scale: np.ndarray

    def first(self, steps: int) -> "Probe":
        return dataclasses.replace(self, grads=self.grads[:steps])


def every(nth: int, weights: int) -> np.ndarray:
    """Every `nth` pair of twins of a ladder, of each kind at other scales."""
    pair = np.arange(weights) // 2
    return np.flatnonzero((pair // len(KINDS) + pair % len(KINDS)) % nth == 0)


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def _stream(kind: str, steps: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(size=steps)
    values += np.copysign(0.05, values)  # no gradient is lost beside its neighbours
    if kind == "bursty":
        values *= 10 ** rng.uniform(-2, 2, steps)
    elif kind == "fading":
        values *= 10 ** np.linspace(0, -3, steps)
    elif kind == "sparse":
        values *= (rng.random(steps) < 0.3) | (np.arange(steps) == 0)
    return values


def ladder(steps: int, seed: int) -> Probe:
    """One stream per kind, fed at every scale to two weights each: one that starts at zero and its twin."""
    rng = np.random.default_rng(seed)
    unit = np.stack([_stream(kind, steps, rng) for kind in KINDS], axis=1)
    scale = np.repeat(SCALES, len(KINDS))
    grads = np.tile(unit, len(SCALES)) * scale
    away = rng.uniform(0.5, 2, scale.size) * rng.choice([-1, 1], scale.size)
    start = np.stack([np.zeros(scale.size), away], axis=1).ravel()
    return Probe(_single(np.repeat(grads, 2, axis=1)), _single(start), np.repeat(scale, 2))


def fresh(steps: int, weights: int, seed: int) -> Probe:
    """Streams that no two weights share, at scales and from starting weights drawn anew."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(np.log10(SCALES[0]), np.log10(SCALES[-1]), weights)
    streams = [_stream(KINDS[i % len(KINDS)], steps, rng) for i in range(weights)]
    start = rng.normal(size=weights) * 10 ** rng.uniform(-3, 1, weights) * (np.arange(weights) % 3 > 0)
    return Probe(_single(np.stack(streams, axis=1) * scale), _single(start), scale)


# Arrays of several axes ---------------------------------------------------------------------------------------------

OPEN = {"vector": (144,), "matrix": (132, 130), "kernel": (3, 2, 5, 4)}  # an axis of 128 is large to some optimizers
CLOSED = {"vector": (24,), "matrix": (8, 6), "kernel": (3, 2, 4, 5)}
SIZES = (1e-3, 1.0, 1e3)
STEEPEST, FLATTEST = 0.3, 3e-3  # curvatures, times the rate


def open_loop(steps: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Starting weights and gradients of every shape of `OPEN`; the vector's are `fresh`."""
    probe = fresh(steps, OPEN["vector"][0], seed)
    starts, grads = {"vector": probe.start}, {"vector": probe.grads}
    rng = np.random.default_rng([seed, 1])
    for name, shape in OPEN.items():
        if name != "vector":
            louder = 10 ** rng.uniform(-3, 3, (steps, *shape[:-1], 1))
            starts[name] = _single(rng.normal(size=shape))
            grads[name] = _single(rng.normal(size=(steps, *shape)) * louder)
    return starts, grads


def closed_loop(
    rate: float, seed: int, tangent: bool, single: bool
) -> tuple[dict[str, np.ndarray], Callable[[int, Mapping[str, np.ndarray]], dict[str, np.ndarray]]]:
    """Starting weights of every shape of `CLOSED`, and the gradient of a quadratic, gentle enough for `rate`.

    Its minimum is elsewhere, at every size of `SIZES`. Where it is `tangent`, the gradients of matrices are orthogonal
    to each of their rows, those of kernels to each slice of their last axis, as normalization layers make them; in
    `single` as near as float32 has it, so that a box of float32 does not round them on their way in.
    """
    rng = np.random.default_rng([seed, 2])
    starts, curvature, minimum = {}, {}, {}
    for name, shape in CLOSED.items():
        size = np.resize(np.repeat(SIZES, 4), shape) if name == "vector" else np.ones(shape)
        starts[name] = _single(size * rng.normal(size=shape))
        minimum[name] = size * rng.normal(size=shape) * 3
        curvature[name] = 10 ** rng.uniform(np.log10(FLATTEST), np.log10(STEEPEST), shape) / rate

    def gradient(_: int, w: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        grads = {name: curvature[name] * (w[name] - minimum[name]) for name in w}
        if tangent:
            for name, axes in {"matrix": (1,), "kernel": (0, 1, 2)}.items():
                if name in w:
                    squares = np.sum(w[name] ** 2, axes, keepdims=True)
                    grads[name] -= w[name] * np.sum(w[name] * grads[name], axes, keepdims=True) / squares
        return {name: _single(g) if single else g for name, g in grads.items()}

    return starts, gradient
