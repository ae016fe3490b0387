"""Least squares between what a box did and what a model says that it does, in units of the box's rounding."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.optimize import least_squares

from optlab.blackbox.families import EXACT, Model, Scalars

SCALAR_STEPS, SCALAR_ROUNDS, SCALAR_ERROR = 40, 3, 100.0  # the last in roundings of float32
UNCLEAR = 64.0  # roundings: what is nearer to zero than so many of its terms has no sign
ROUNDINGS = 16.0  # in one update, at least; an average adds as many as it remembers steps
EVALUATIONS = 300
HOPELESS = 1e20  # roundings: more than a wrong prediction in float64 is off by


@dataclasses.dataclass(frozen=True)
class Precision:
    """How a box's numbers round.

    Attributes:
      name: as a card says it.
      weights, moves: the relative rounding error of a weight, and of what is added to it.
      overflows, underflows: weights that decay has blown up, and gradients whose squares are lost, say nothing.
      cancelled: how much of an update's rounding may come from terms that cancel.
    """

    name: str
    weights: float
    moves: float
    overflows: float
    underflows: float
    cancelled: float


DOUBLE = Precision("float64", 2.0**-53, 2.0**-53, 1e100, 0.0, 1e6)
SINGLE = Precision("float32", 2.0**-24, 2.0**-24, 1e10, 1e-11, 1e3)
MIXED = Precision("float64, with scalars in float32", 2.0**-53, 2.0**-24, 1e100, 0.0, 1e3)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What a box did.

    Attributes:
      w: weights before and after every step, `[steps + 1, weights]`.
      g: gradients, `[steps, weights]`.
      precision: of the box's numbers.
      everyone: the gradients of all the weights that the optimizer has, `[steps, weights]`, if not `g`.
      noise: the rounding error of each new weight, `[steps, weights]`.
      seen: where the weights are still finite, `[steps, weights]`.
    """

    w: np.ndarray
    g: np.ndarray
    precision: Precision
    everyone: np.ndarray | None = None
    noise: np.ndarray = dataclasses.field(init=False)
    seen: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):
            lost = np.maximum.accumulate(~(np.abs(self.w) < self.precision.overflows), axis=0)
            lost |= np.max(np.abs(self.g), axis=0) < self.precision.underflows
            size = maximum_filter1d(np.abs(np.diff(np.where(lost, 0, self.w), axis=0)), 5, axis=0)
            weights = np.abs(self.w[1:]) + np.abs(self.w[:-1])
            noise = self.precision.weights * weights + self.precision.moves * ROUNDINGS * size
            noise += np.finfo(float).tiny
        object.__setattr__(self, "noise", np.where(lost[1:], 1.0, noise))
        object.__setattr__(self, "seen", ~lost[1:])

    def only(self, weights: np.ndarray) -> "Trajectory":
        everyone = self.g if self.everyone is None else self.everyone
        return Trajectory(self.w[:, weights], self.g[:, weights], self.precision, everyone)

    def off(self, predicted: np.ndarray) -> np.ndarray:
        """Differences from the moves of the weights, in units of their noise, flat."""
        with np.errstate(all="ignore"):
            off = ((predicted - np.diff(self.w, axis=0)) / self.noise)[self.seen]
        return np.clip(np.nan_to_num(off, nan=HOPELESS), -HOPELESS, HOPELESS)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A model with its values.

    Attributes:
      model, rate, values: what predicts the weights.
      rms: how far the predictions are off, in units of the box's rounding.
      off: the same, with the rounding of what cancels inside of an update; see `off_from`.
      uncertainties: standard deviations of the values that were fitted, by name, and of the `rate`.
    """

    model: Model
    rate: float
    values: Mapping[str, float]
    rms: float
    off: float = math.inf
    uncertainties: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def allowed(self) -> float:
        """How large `off` gets from rounding alone: averages add up the errors of the steps that they remember."""
        remembered = sum(min(1 / (1 - self.values[name]), 1e4) for name in ("b1", "b2") if name in self.values)
        return 8 * (1 + remembered / ROUNDINGS)

    def holds(self) -> bool:
        return self.off <= self.allowed() and self.rate > 0


def rms(off: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(off)))) if off.size else math.inf


def best_rate(model: Model, values: Mapping[str, float], run: Trajectory) -> Fit:
    """The fit with the rate that suits these values best; predictions are linear in it."""
    with np.errstate(all="ignore"):
        still = model.moves(run.w[:-1], run.g, 0.0, values, run.everyone)
        per_rate = model.moves(run.w[:-1], run.g, 1.0, values, run.everyone) - still
        direction = np.nan_to_num((per_rate / run.noise)[run.seen], posinf=0, neginf=0)
        needed = np.nan_to_num(((np.diff(run.w, axis=0) - still) / run.noise)[run.seen], posinf=0, neginf=0)
        rate = float(direction @ needed / max(direction @ direction, 1e-300))
    return Fit(model, rate, values, rms(needed - rate * direction))


def predict(fit: Fit, run: Trajectory) -> np.ndarray:
    with np.errstate(all="ignore"):
        return fit.model.moves(run.w[:-1], run.g, fit.rate, fit.values, run.everyone)


def off_from(fit: Fit, run: Trajectory) -> float:
    """How far a fit is off a run, in units of a rounding that counts the terms of an update one by one.

    They cancel where decay turns a weight around, and leave the rounding of what was there; a sign of nothing but
    rounding tells nothing.
    """
    with np.errstate(all="ignore"):
        clear = fit.model.clear(run.w[:-1], run.g, fit.values, UNCLEAR * run.precision.moves)[run.seen]
        size = fit.model.size(run.w[:-1], run.g, fit.values)
        terms = np.nan_to_num(ROUNDINGS * run.precision.moves * abs(fit.rate) * size, nan=0.0)
        noise = run.noise + np.minimum(terms, run.precision.cancelled * run.noise)
    return rms((run.off(predict(fit, run)) * (run.noise / noise)[run.seen])[clear])


def measured(fit: Fit, run: Trajectory) -> Fit:
    """The fit with how far it is off this run."""
    return dataclasses.replace(fit, rms=rms(run.off(predict(fit, run))), off=off_from(fit, run))


def explained_by_rates(found: Fit, run: Trajectory) -> tuple[np.ndarray, float]:
    """The rate that suits every step best, all else as found, and the share of the moves' squares that they explain."""
    with np.errstate(all="ignore"):
        still = found.model.moves(run.w[:-1], run.g, 0.0, found.values, run.everyone)
        moved = found.model.moves(run.w[:-1], run.g, 1.0, found.values, run.everyone)
        direction = (moved - still) / run.noise
        needed = (np.diff(run.w, axis=0) - still) / run.noise
    direction, needed = (np.nan_to_num(np.where(run.seen, x, 0), posinf=0, neginf=0) for x in (direction, needed))
    rates = np.sum(direction * needed, axis=1) / np.maximum(np.sum(direction**2, axis=1), 1e-300)
    left = np.sum((needed - rates[:, None] * direction) ** 2)
    return rates, 1 - float(left / max(np.sum(needed**2), 1e-300))


def explained_by_scalars(found: Fit, run: Trajectory) -> bool:
    """Whether scalars in float32 are all that a fit is off by: scalars are the same for every weight.

    What they are off by at every step is solved for from a quarter of the weights, and with it what float32 hides of
    the values, a second eps included; the others then have to be predicted down to the rounding of float64.
    """
    everyone = None if run.everyone is None else run.everyone[:SCALAR_STEPS]
    run = Trajectory(run.w[: SCALAR_STEPS + 1], run.g[:SCALAR_STEPS], DOUBLE, everyone)
    weights = np.arange(run.w.shape[1])
    some, others = run.only(weights[weights % 16 < 4]), run.only(weights[weights % 16 >= 4])
    names = [field.name for field in dataclasses.fields(Scalars)]
    exact = np.concatenate([np.full(SCALAR_STEPS, float(getattr(EXACT, name))) for name in names])
    model, values = found.model, {"rate": found.rate, **found.values}
    size = {name: SINGLE.moves * value for name, value in values.items()}
    if model.core.eps.startswith("inside"):
        core = dataclasses.replace(model.core, eps=model.core.eps.replace("inside", "both"))
        model, eps_root = dataclasses.replace(model, core=core), values["eps"]
        values |= {"eps_root": eps_root, "eps": 0.0}
        size |= {"eps_root": size["eps"], "eps": SINGLE.moves * math.sqrt(eps_root)}

    def off(run: Trajectory, change: np.ndarray) -> np.ndarray:
        scalars = np.split((exact + SINGLE.moves * change[: len(exact)])[:, None], len(names))
        at = {
            name: value + size[name] * x for (name, value), x in zip(values.items(), change[len(exact) :], strict=True)
        }
        with np.errstate(all="ignore"):
            return run.off(model.moves(run.w[:-1], run.g, at["rate"], at, run.everyone, Scalars(*scalars)))

    change = np.zeros(len(exact) + len(values))
    before = off(some, change)
    slopes = np.stack([off(some, one) - before for one in np.eye(len(change))], axis=1)
    length = np.linalg.norm(slopes, axis=0)
    length = np.where(length > 1e-9 * length.max(), length, np.inf)
    inverse = np.linalg.pinv(slopes / length, rcond=1e-12)
    for _ in range(SCALAR_ROUNDS):
        change = change - inverse @ off(some, change) / length
    small = np.abs(change[: len(exact)]).max() < SCALAR_ERROR
    return bool(small and rms(off(others, change)) <= found.allowed())


# Hyperparameters are fitted on the scale on which they are free ----------------------------------------------------

_LOGARITHMIC = ("eps", "eps_root", "initial", "momentum_decay")


def _free(name: str, value: float, start: float) -> float:
    if name in ("b1", "b2"):
        return math.sqrt(1 - value)  # whose sign does not matter, so that a step beyond 1 is none
    return math.log(value) if name in _LOGARITHMIC else value / start


def _bound(name: str, x: float, start: float) -> float:
    if name in ("b1", "b2"):
        return 1 - min(max(x * x, 1e-12), 1 - 1e-9)
    return math.exp(min(max(x, -600), 600)) if name in _LOGARITHMIC else x * start


def _slope(name: str, value: float, start: float) -> float:
    if name in ("b1", "b2"):
        return 2 * math.sqrt(1 - value)
    return value if name in _LOGARITHMIC else abs(start)


def fit(start: Fit, run: Trajectory, free: Sequence[str], evaluations: int = EVALUATIONS) -> Fit:
    """Least squares over the `free` values (`rate` among them or not) from `start`, with their standard deviations."""
    if not free:
        return measured(start, run)
    origin = {"rate": start.rate, **start.values}
    scale = {name: origin[name] or 1.0 for name in free}

    def values(x: np.ndarray) -> dict[str, float]:
        return origin | {name: _bound(name, each, scale[name]) for name, each in zip(free, x, strict=True)}

    def candidate(x: np.ndarray) -> Fit:
        at = values(x)
        return Fit(start.model, at.pop("rate"), at, math.inf)

    def residual(x: np.ndarray) -> np.ndarray:
        return run.off(predict(candidate(x), run))

    x0 = [_free(name, origin[name], scale[name]) for name in free]
    result: Any = least_squares(residual, x0, method="lm", ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=evaluations)
    found = candidate(result.x)
    length = np.linalg.norm(result.jac, axis=0) + np.finfo(float).tiny  # values differ by many powers of ten
    covariance = np.linalg.pinv((result.jac / length).T @ (result.jac / length)) * max(rms(result.fun), 1.0) ** 2
    with np.errstate(over="ignore"):  # of a value that moves nothing, nothing is known
        spread = np.sqrt(np.maximum(np.diag(covariance), 0)) / length
    at = {"rate": found.rate, **found.values}
    uncertainties = {
        name: float(each * _slope(name, at[name], scale[name])) for name, each in zip(free, spread, strict=True)
    }
    return measured(dataclasses.replace(found, uncertainties={**start.uncertainties, **uncertainties}), run)


def scan(model: Model, run: Trajectory, grid: Sequence[Mapping[str, float]]) -> Fit:
    """The best point of a grid, each with its best rate."""
    return min((best_rate(model, values, run) for values in grid), key=lambda found: found.rms)


def simplest(fits: Sequence[Fit], size: Callable[[Fit], int]) -> list[Fit]:
    """The fits that the best one is not clearly better than, fewest hyperparameters first."""
    best = min(found.rms for found in fits)
    floor = max(2 * best, 4.0)
    return sorted((found for found in fits if found.rms <= floor), key=size)
