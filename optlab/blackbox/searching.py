"""Which core a trajectory is of: a screen of all cores at gradients that no eps reaches, then fits of the best."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from optlab.blackbox import families
from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import ROUNDINGS, Fit, Trajectory, fit, scan, simplest

LARGE = 1e5  # at gradients of this scale an eps of 1e-3 moves an update by 1e-8
NO_MOMENTUM = 1e-3  # a smaller momentum is more likely none, and a simpler core says so
FOUND = 1e-8  # relative to a move: nearer than this, no other start is tried
NEARLY = 1e-6  # relative to a move: nearer than this, a core may lack an eps, or have its scalars in float32
HOPELESS = 1e-2  # relative to a move: farther off at large gradients, no eps makes a core fit
WELL = 30  # roundings: what a fit of the right core is off by, unless the box rounds its hyperparameters too
SCREENED, SCREENING = 16, 60  # cores, and evaluations of each
KEPT = 4
_LEFT_OUT = ("eps_root", "initial")  # as small as eps

_GRID = {
    "b1": (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99),
    "b2": (0.7, 0.9, 0.99),
    "momentum_decay": (4e-3,),
    "dampening": (0.5,),
    "eps": (1e-10, 1e-8, 1e-6, 1e-4, 1e-2),
}
_DECADES = tuple(10.0**power for power in range(-17, 1))
_SCANNED = {"eps": _DECADES, "initial": _DECADES, "eps_root": _DECADES, "decay": _DECADES[7:]}


def screen(run: Trajectory) -> list[Fit]:
    """Fits of the likeliest cores, best first, on a trajectory of gradients that no eps reaches."""
    starts = [_starts(core, run) for core in (*families.LINEAR, *families.QUOTIENTS)]
    starts.sort(key=lambda of_core: of_core[0].rms)
    found: list[Fit] = []
    enough = math.inf  # once a core fits, those with more to fit are not worth a look
    for of_core in starts[:SCREENED]:
        size = len(of_core[0].model.names())
        if size <= enough:
            found.append(_best_from(of_core, run))
            enough = min(enough, size if _is_found(found[-1], run) else math.inf)
    return sorted(found, key=lambda each: (each.values.get("b1", 1) < NO_MOMENTUM, each.rms))


def _is_found(rough: Fit, run: Trajectory) -> bool:
    return rough.rms < max(FOUND / (ROUNDINGS * run.precision.moves), WELL)


def _starts(core: Core, run: Trajectory) -> list[Fit]:
    """The best point of a grid for every `b2` of it, best first."""
    names = [name for name in core.names() if name not in _LEFT_OUT]
    zero = {name: 0.0 for name in core.names() if name in _LEFT_OUT}
    b2 = [{"b2": each} for each in _GRID["b2"]] if "b2" in names else [{}]
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*(_GRID[name] for name in names))]
    starts = [scan(Model(core), run, [p | zero for p in points if p.items() >= fixed.items()]) for fixed in b2]
    return sorted(starts, key=lambda each: each.rms)


def _best_from(starts: Sequence[Fit], run: Trajectory) -> Fit:
    """A fit from the first start that leads somewhere: second moments of decay 1 are a plain with no way back."""
    found = []
    for start in starts:
        names = [name for name in start.model.names() if name not in _LEFT_OUT]
        found.append(fit(start, run, ["rate", *names], SCREENING))
        if _is_found(found[-1], run):
            break
    return min(found, key=lambda each: each.rms)


def refine(start: Fit, run: Trajectory) -> Fit:
    """A screened fit, with the values that it lacks, fitted on a trajectory at every scale."""
    names = start.model.names()
    scanned = {name: _SCANNED[name] for name in names if name in _SCANNED}
    if scanned:
        points = itertools.product(*scanned.values())
        grid = [{**start.values, **dict(zip(scanned, point, strict=True))} for point in points]
        start = scan(start.model, run, grid)
    return fit(start, run, ["rate", *names])


def _refined(
    screened: Sequence[Fit],
    run: Trajectory,
    models: Callable[[Core], Sequence[Model]],
    with_eps: Callable[[Core], Sequence[Core]] = families.with_eps,
) -> list[Fit]:
    """Refined fits, best first, of the screened cores, simplest first, until those of one size explain the run well."""
    found: list[Fit] = []
    for _, equals in itertools.groupby(screened, key=lambda each: len(each.model.names())):
        found += [
            refine(dataclasses.replace(rough, model=model), run)
            for rough in equals
            for core in with_eps(rough.model.core)
            for model in models(core)
        ]
        if any(each.holds() and each.rms < WELL for each in found):
            break
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
    if near[0].rms * ROUNDINGS * run.precision.moves > HOPELESS:
        return near
    near.sort(key=lambda each: len(each.model.names()))  # which groups them too
    found = _refined(near, run, models)
    if not found[0].holds():
        well = [each for each in near if each.rms < max(NEARLY / (ROUNDINGS * run.precision.moves), WELL)]
        found += _refined(well, run, models, families.with_two_eps)
        found.sort(key=lambda each: each.rms)
    if not found[0].holds():
        elsewhere = [each for each in near if each.model.core.denominator == "ema"]
        found += _refined(elsewhere, run, lambda core: models(dataclasses.replace(core, starts=True)))
        found.sort(key=lambda each: each.rms)
    return simplest(found, lambda each: len(each.model.names())) if found[0].holds() else found
