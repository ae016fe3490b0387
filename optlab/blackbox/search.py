"""Which core a trajectory is of: a screen of all cores at gradients that no eps reaches, then fits of the best."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from optlab.blackbox import families
from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import Fit, Trajectory, fit, scan, simplest

LARGE = 1e4  # at gradients of this scale an eps of 1e-3 moves an update by 1e-7
NO_MOMENTUM = 1e-6  # a momentum that is fitted smaller is none, and a simpler core says so
SCREENED, SCREENING = 16, 60  # cores, and evaluations of each
KEPT = 4
EQUALS = 10.0

_GRID = {
    "b1": (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99),
    "b2": (0.7, 0.9, 0.99),  # from nearer to 1 a fit may run into 1, where it sees no way back
    "momentum_decay": (4e-3,),
    "dampening": (0.5,),
    "eps": (1e-10, 1e-8, 1e-6, 1e-4, 1e-2),
    "eps_root": (1e-16,),
    "initial": (1e-3,),
}
_DECADES = tuple(10.0**power for power in range(-17, 1))
_SCANNED = {"eps": _DECADES, "initial": _DECADES, "eps_root": _DECADES, "decay": _DECADES[7:]}


def _grid(names: Sequence[str]) -> list[dict[str, float]]:
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*(_GRID[name] for name in names))]


def screen(run: Trajectory) -> list[Fit]:
    """Fits of the likeliest cores, best first, on a trajectory of gradients that no eps reaches."""
    starts = []
    for core in (*families.LINEAR, *families.QUOTIENTS):
        names = [name for name in core.names() if name not in ("eps_root", "initial")]
        zero = {name: 0.0 for name in core.names() if name not in names}
        starts.append((scan(Model(core), run, [point | zero for point in _grid(names)]), names))
    starts.sort(key=lambda start: start[0].rms)
    found = [fit(start, run, ["rate", *names], SCREENING) for start, names in starts[:SCREENED]]
    return sorted((each for each in found if each.values.get("b1", 1) > NO_MOMENTUM), key=lambda each: each.rms)


def refine(start: Fit, run: Trajectory) -> Fit:
    """A screened fit, with the values that it lacks, fitted on a trajectory at every scale."""
    names = start.model.names()
    scanned = {name: _SCANNED[name] for name in names if name in _SCANNED}
    if scanned:
        points = itertools.product(*scanned.values())
        grid = [{**start.values, **dict(zip(scanned, point, strict=True))} for point in points]
        start = scan(start.model, run, grid)
    return fit(start, run, ["rate", *names])


def _refined(screened: Sequence[Fit], run: Trajectory, models: Callable[[Core], Sequence[Model]]) -> list[Fit]:
    """Refined fits, best first, of the screened cores up to the first that explains the run, and of its equals."""
    found: list[Fit] = []
    explained = math.inf
    for rough in screened:
        if rough.rms > EQUALS * explained:
            break
        found += [
            refine(dataclasses.replace(rough, model=model), run)
            for core in families.with_eps(rough.model.core)
            for model in models(core)
        ]
        if any(each.holds() for each in found):
            explained = min(explained, rough.rms)
    return sorted(found, key=lambda each: each.rms)


def search(
    run: Trajectory,
    scale: np.ndarray,
    models: Callable[[Core], Sequence[Model]] = lambda core: [Model(core)],
    kept: int = KEPT,
) -> list[Fit]:
    """Fits of every core that explains a trajectory, simplest first; where none does, best first.

    Args:
      run: of gradients at many scales.
      scale: that of each weight's gradients.
      models: what to try of a core. The screen leaves decay out, which large gradients drown.
      kept: how many cores to try them of.
    """
    near = screen(run.only(np.flatnonzero(scale >= LARGE)))[:kept]
    found = _refined(near, run, models)
    if not found[0].holds():
        elsewhere = [each for each in near if each.model.core.denominator == "ema"]
        found += _refined(elsewhere, run, lambda core: models(dataclasses.replace(core, starts=True)))
        found.sort(key=lambda each: each.rms)
    return simplest(found, lambda each: len(each.model.names())) if found[0].holds() else found
