"""Least squares between what a box did and what a model says that it does, in units of the box's rounding."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.optimize import least_squares

from optlab.blackbox.families import Model

ROUNDINGS = 16.0  # in one update, at least; an average adds as many as it remembers steps
EVALUATIONS = 300
HOPELESS = 1e20  # roundings: more than a wrong prediction in float64 is off by
DOUBLE, SINGLE = 2.0**-53, 2.0**-24
MOST_CANCELLED = {DOUBLE: 1e6, SINGLE: 1e3}  # how much of an update's rounding may come from terms that cancel
# Weights that decay has blown up, and gradients whose squares are lost, say nothing.
RANGES = {DOUBLE: (1e100, 0.0), SINGLE: (1e10, 1e-11)}


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What a box did.

    Attributes:
      w: weights before and after every step, `[steps + 1, weights]`.
      g: gradients, `[steps, weights]`.
      unit: the relative rounding error of the box's numbers.
      noise: the rounding error of each new weight, `[steps, weights]`.
      seen: where the weights are still finite, `[steps, weights]`.
    """

    w: np.ndarray
    g: np.ndarray
    unit: float
    noise: np.ndarray = dataclasses.field(init=False)
    seen: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):
            overflows, underflows = RANGES[self.unit]
            lost = np.maximum.accumulate(~(np.abs(self.w) < overflows), axis=0)
            lost |= np.max(np.abs(self.g), axis=0) < underflows
            size = maximum_filter1d(np.abs(np.diff(np.where(lost, 0, self.w), axis=0)), 5, axis=0)
            weights = np.abs(self.w[1:]) + np.abs(self.w[:-1])
            noise = self.unit * (weights + ROUNDINGS * size) + np.finfo(float).tiny
        object.__setattr__(self, "noise", np.where(lost[1:], 1.0, noise))
        object.__setattr__(self, "seen", ~lost[1:])

    def only(self, weights: np.ndarray) -> "Trajectory":
        return Trajectory(self.w[:, weights], self.g[:, weights], self.unit)

    def off(self, predicted: np.ndarray) -> np.ndarray:
        """Differences from the new weights, in units of their noise, flat."""
        with np.errstate(all="ignore"):
            off = ((predicted - self.w[1:]) / self.noise)[self.seen]
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
        """How large `off` gets from rounding alone.

        Averages add up the errors of the steps that they remember; torch's NAdam keeps the product of its coefficients
        in float32 for weights of any precision.
        """
        remembered = sum(min(1 / (1 - self.values[name]), 1e4) for name in ("b1", "b2") if name in self.values)
        kept_in_single = 2.0**24 if self.model.core.numerator == "warming_nesterov_ema" else 1.0
        return 8 * (1 + remembered / ROUNDINGS) * kept_in_single

    def holds(self) -> bool:
        return self.off <= self.allowed() and self.rate > 0


def rms(off: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(off)))) if off.size else math.inf


def best_rate(model: Model, values: Mapping[str, float], run: Trajectory) -> Fit:
    """The fit with the rate that suits these values best; predictions are linear in it."""
    with np.errstate(all="ignore"):
        still = model.step(run.w[:-1], run.g, 0.0, values)
        per_rate = model.step(run.w[:-1], run.g, 1.0, values) - still
        direction = np.nan_to_num((per_rate / run.noise)[run.seen], posinf=0, neginf=0)
        needed = np.nan_to_num(((run.w[1:] - still) / run.noise)[run.seen], posinf=0, neginf=0)
        rate = float(direction @ needed / max(direction @ direction, 1e-300))
    return Fit(model, rate, values, rms(needed - rate * direction))


def predict(fit: Fit, run: Trajectory) -> np.ndarray:
    with np.errstate(all="ignore"):
        return fit.model.step(run.w[:-1], run.g, fit.rate, fit.values)


def off_from(fit: Fit, run: Trajectory) -> float:
    """How far a fit is off a run, in units of a rounding that counts the terms of an update one by one.

    They cancel where decay turns a weight around, and leave the rounding of what was there.
    """
    with np.errstate(all="ignore"):
        size = fit.model.size(run.w[:-1], run.g, fit.values)
        terms = np.nan_to_num(ROUNDINGS * run.unit * abs(fit.rate) * size, nan=0.0)
        noise = run.noise + np.minimum(terms, MOST_CANCELLED[run.unit] * run.noise)
    return rms(run.off(predict(fit, run)) * (run.noise / noise)[run.seen])


def measured(fit: Fit, run: Trajectory) -> Fit:
    """The fit with how far it is off this run."""
    return dataclasses.replace(fit, rms=rms(run.off(predict(fit, run))), off=off_from(fit, run))


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
    covariance = np.linalg.pinv(result.jac.T @ result.jac) * max(rms(result.fun), 1.0) ** 2
    spread = np.sqrt(np.maximum(np.diag(covariance), 0))
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
