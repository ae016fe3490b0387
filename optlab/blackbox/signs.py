"""Optimizers that step by a sign: what the sign is taken of shows where it flips."""

import dataclasses
from collections.abc import Callable

import numpy as np

from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import Fit, Trajectory, best_rate, measured

ROUNDS = 7
WEIGHTS = 60  # per threshold and round
LOWEST, HIGHEST = 1e-6, 1e6
SAME = 1e-5

Drive = Callable[[np.ndarray, np.ndarray], np.ndarray]


def steps_by_sign(run: Trajectory) -> bool:
    """Whether every weight moves by the same amount, or not at all."""
    moved = np.abs(np.diff(run.w, axis=0))
    size = np.median(moved[moved > 0]) if (moved > 0).any() else 0.0
    return bool(size > 0 and np.all((moved <= 4 * run.noise) | (np.abs(moved - size) <= 4 * run.noise)))


def _thresholds(drive: Drive, start: float, streams: list[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    """The size of the last gradient at which each stream's last step turns upwards; NaN where it never turns.

    Args:
      drive: from starting weights and gradients to weights.
      start: of every weight.
      streams: from sizes to gradients, all of the same number of steps.
    """
    low, high = np.full(len(streams), np.log(LOWEST)), np.full(len(streams), np.log(HIGHEST))
    turns = np.ones(len(streams), bool)
    for _ in range(ROUNDS):
        tried = np.linspace(low, high, WEIGHTS, axis=1)
        grads = np.concatenate([stream(size) for stream, size in zip(streams, np.exp(tried), strict=True)], axis=1)
        w = drive(np.full(grads.shape[1], start), grads)
        up = (w[-1] > w[-2]).reshape(tried.shape)
        turns &= ~up[:, 0] & up[:, -1]
        for row in np.flatnonzero(turns):
            first = int(np.argmax(up[row]))
            low[row], high[row] = tried[row, first - 1], tried[row, first]
    return np.where(turns, np.exp((low + high) / 2), np.nan)


def _opposite_after(lag: int) -> Callable[[np.ndarray], np.ndarray]:
    """An impulse, and `lag` steps later, at the last of three, one against it."""

    def stream(size: np.ndarray) -> np.ndarray:
        grads = np.zeros((3, size.size))
        grads[2 - lag], grads[2] = 1.0, -size
        return grads

    return stream


def fit_core(drive: Drive, run: Trajectory) -> Fit:
    """The average that the signs of a run without decay are taken of.

    A gradient stays in it for a step with `r1` of its weight, for two with `r2`: none for the plain sign, `b1` and
    `b1**2` for one average, `b1*(1 - b2)/(1 - b1)` and `b2` times that for Lion's.
    """
    r1, r2 = _thresholds(drive, 0.0, [_opposite_after(1), _opposite_after(2)])
    kept = r2 / r1
    if not 0 < kept < 1:
        core, values = Core("gradient", "magnitude"), {}
    elif abs(kept - r1) < SAME:
        core, values = Core("ema", "magnitude"), {"b1": float(r1)}
    else:
        odds = r1 / (1 - kept)
        core, values = Core("interpolated", "magnitude"), {"b1": float(odds / (1 + odds)), "b2": float(kept)}
    found = best_rate(Model(core), values, run)
    error = 4 * max(run.precision.moves, 1e-11)
    spread = {"rate": error * abs(found.rate), **{name: error / (1 - values[name]) for name in values}}
    return measured(dataclasses.replace(found, uncertainties=spread), run)


def decays_through(drive: Drive, core: Fit) -> dict[str, float]:
    """The decay, by place, that would turn a first step where it turns: a gradient against a weight of 1."""
    turn = float(_thresholds(drive, 1.0, [lambda size: -size[None]])[0])
    newest = 1 - core.values["b1"] if "b1" in core.values else 1.0
    return {} if np.isnan(turn) else {"gradient": turn, "direction": turn * newest}
