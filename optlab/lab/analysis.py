"""What a study's grid says beyond its best cells: basins, ridges, sites at equal strength, laws; all with intervals.

Intervals are percentile bootstraps over the seeds, with every cell resampled alike, because a seed is the same data and
the same initial weights in every cell.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import optimize

from optlab.lab import results as grids
from optlab.lab.results import CONFIDENCE, Interval

RESAMPLES = 2000
STRENGTHS = ("weight_norm", "decay_share")


class Estimate(NamedTuple):
    """A value and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def text(self, digits: str = ".2f") -> str:
        """As `0.31 (0.27 to 0.36)`."""
        return f"{self.value:{digits}} ({self.low:{digits}} to {self.high:{digits}})"

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval."""
        return self.low <= value <= self.high


def bootstrap(statistic: Callable[[np.ndarray], float], seeds: int) -> Estimate:
    """`statistic(numbers)` for the numbers of all seeds, with its interval for seeds drawn with replacement.

    Values that are not finite are left out of the interval, which is NaN where fewer than half of them are left.
    """
    return _bootstraps(lambda numbers: np.array([statistic(numbers)]), seeds)[0]


def _bootstraps(
    statistics: Callable[[np.ndarray], np.ndarray], seeds: int, resamples: int = RESAMPLES
) -> list[Estimate]:
    """`bootstrap` of several statistics in one; which seeds are drawn counts, their order does not."""
    generator = np.random.default_rng(0)
    once = functools.cache(lambda drawn: statistics(np.array(drawn)))
    drawn = np.stack([once(tuple(np.sort(generator.integers(seeds, size=seeds)).tolist())) for _ in range(resamples)])
    return [_estimate(*each) for each in zip(statistics(np.arange(seeds)), drawn.T, strict=True)]


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(finite, [tail, 100 - tail]) if 2 * len(finite) > len(drawn) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


# Basins ---------------------------------------------------------------------------------------------------------------


class Basin(NamedTuple):
    """How forgiving the grid of a structure is.

    Attributes:
      share: of the grid's cells, those within the tolerance of the best.
      correlation: of log rate and log decay over the cells of the basin; 0 where each can be tuned alone, -1 where only
        their product counts; NaN where the basin is one row or one column.
    """

    share: Estimate
    correlation: Estimate


def basin(results: xr.Dataset, structure: str, tolerance: float = 0.01) -> Basin:
    """The cells of `structure` whose mean objective is within `tolerance`, relative, of its best.

    Cells with a diverged run, and those at a rate or a decay of zero, are not part of it.
    """
    scores = _scores(results, structure)
    logs = _log_grid(results)

    def statistics(numbers: np.ndarray) -> np.ndarray:
        mean = scores[..., numbers].mean(-1)
        inside = grids.within(mean, mean.max(), tolerance)
        rate, decay = logs[:, inside]
        spread = rate.std() * decay.std() if len(rate) else 0.0
        together = ((rate - rate.mean()) * (decay - decay.mean())).mean() / spread if spread > 0 else np.nan
        return np.array([inside.mean(), together])

    return Basin(*_bootstraps(statistics, results.sizes["seed"]))


def _scores(results: xr.Dataset, structure: str) -> np.ndarray:
    """The objective over (rate, decay, seed), larger is better; minus infinity at cells with a diverged run."""
    rows = grids.by_structure(results).sel(structure=structure)
    sign = 1 if results.attrs["maximize"] else -1
    scores = (sign * rows[results.attrs["objective"]]).where(~rows.diverged.any("seed"), -np.inf)
    return scores.transpose("learning_rate", "weight_decay", "seed").values


def _log_grid(results: xr.Dataset) -> np.ndarray:
    """log10 of the rate and of the decay, over (2, rate, decay)."""
    rates, decays = results.learning_rate.values, results.weight_decay.values
    return np.stack(np.meshgrid(np.log10(rates), np.log10(decays), indexing="ij"))


# Ridges ---------------------------------------------------------------------------------------------------------------


class Ridge(NamedTuple):
    """How the best decay follows the learning rate.

    Attributes:
      decays: the best decay at every rate of the range.
      slope: of log best decay against log rate: 0 where it stays, -1 where the product of both counts.
      moved: the best decay at the lowest rate divided by that at the highest.
    """

    decays: list[Estimate]
    slope: Estimate
    moved: Estimate


def ridge(results: xr.Dataset, structure: str, rates: Sequence[float]) -> Ridge:
    """The best decay at each of `rates`: the centre of the decays within half a percent of the best, in logarithms.

    The grid's argmax alone would jump by whole cells.
    """
    places = [results.learning_rate.values.tolist().index(rate) for rate in rates]
    scores = _scores(results, structure)[places]
    logs, log_rates = np.log10(results.weight_decay.values), np.log10(np.array(rates))
    offsets = log_rates - log_rates.mean()

    def statistics(numbers: np.ndarray) -> np.ndarray:
        mean = scores[..., numbers].mean(-1)
        near = grids.within(mean, mean.max(1, keepdims=True), 0.005)
        centres = np.array([logs[row].mean() if row.any() else np.nan for row in near])
        slope = (centres - centres.mean()) @ offsets / (offsets @ offsets)
        return np.array([*10**centres, slope, 10 ** (centres[0] - centres[-1])])

    *decays, slope, moved = _bootstraps(statistics, results.sizes["seed"])
    return Ridge(decays, slope, moved)


# Equal strength -------------------------------------------------------------------------------------------------------


def at_equal_strength(
    results: xr.Dataset, reference: str, other: str, rate: float, strength: str = "weight_norm"
) -> Interval | None:
    """What is reported under `other` minus that under `reference`, with as much decay in both.

    How much is that of the best decay of `reference` at this learning rate, measured; `other` is interpolated between
    its two decays around it, linearly in the logarithm of the strength, seed by seed.

    Args:
      strength: what is equal: `weight_norm`, at the end, or `decay_share`, of the whole network.

    Returns:
      None where `reference` has no cell without a diverged run, or no decays of `other` lie around its strength.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"at_equal_strength: unknown strength {strength!r}; known are {', '.join(STRENGTHS)}")
    rows = grids.by_structure(results).sel(learning_rate=rate)
    measured = rows[strength] if "layer" not in rows[strength].dims else rows[strength].sel(layer="all")
    reported = rows[results.attrs["reported"]]
    best = grids.best_decays(results).sel(structure=reference, learning_rate=rate)
    if best.score.isnull():
        return None
    at_best = {"structure": reference, "weight_decay": float(best.weight_decay)}
    wanted = float(np.log(measured.sel(at_best).mean("seed")))
    whole = ~rows.diverged.sel(structure=other).any("seed").values
    order = ("weight_decay", "seed")
    strengths = np.log(measured.sel(structure=other).transpose(*order).values[whole].mean(-1))
    values = reported.sel(structure=other).transpose(*order).values[whole]
    found = _crossing(strengths, values, wanted)
    return None if found is None else grids.interval(found - reported.sel(at_best).values)


def _crossing(strengths: np.ndarray, values: np.ndarray, wanted: float) -> np.ndarray | None:
    """The rows of `values` between the first two neighbours of `strengths` that `wanted` lies between."""
    for low in range(len(strengths) - 1):
        begin, end = strengths[low : low + 2]
        if min(begin, end) <= wanted <= max(begin, end):
            share = (wanted - begin) / (end - begin) if end != begin else 0.0
            return (1 - share) * values[low] + share * values[low + 1]
    return None


# Laws -----------------------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """A law with numbers to fit: `steps(numbers, learning_rate, weight_decay)`, and where the fit starts."""

    formula: str
    steps: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    start: tuple[float, ...]


FORMS = {
    "timescale": Form("a + b/(lr*wd)", lambda n, lr, wd: n[0] + n[1] / (lr * wd), (100.0, 1.0)),
    "timescales": Form("a/lr + b/(lr*wd)", lambda n, lr, wd: n[0] / lr + n[1] / (lr * wd), (1.0, 1.0)),
    "power": Form(
        "a/lr**p + b/(lr**q * wd**r)",
        lambda n, lr, wd: n[0] / lr ** n[2] + n[1] / (lr ** n[3] * wd ** n[4]),
        (1.0, 1.0, 1.0, 1.0, 1.0),
    ),
    "logarithm": Form(
        "a/lr**p + b*log10(c/wd)",
        lambda n, lr, wd: n[0] / lr ** n[3] + n[1] * np.log10(n[2] / wd),
        (1.0, 100.0, 1.0, 1.0),
    ),
}


class Law(NamedTuple):
    """A fitted `Form`.

    Attributes:
      numbers: those of the form, by name.
      error: root mean square, over the cells, of the logarithm of fitted by measured: 0.1 is ten percent.
      cells: how many cells were fitted.
    """

    numbers: dict[str, Estimate]
    error: float
    cells: int


def fit_law(results: xr.Dataset, structure: str, name: str, form: str) -> Law:
    """How `name`, a number of steps, follows the learning rate and the decay at `structure`.

    Least squares of the logarithm of the mean over seeds, over the cells in which every run has got there; all numbers
    are positive.

    Args:
      form: a name in `FORMS`.

    Raises:
      ValueError: no such form, or no more such cells than numbers to fit.
    """
    if form not in FORMS:
        raise ValueError(f"fit_law: unknown form {form!r}; known are {', '.join(FORMS)}")
    _, law, start = FORMS[form]
    rows = grids.by_structure(results).sel(structure=structure)
    steps = rows[name].transpose("learning_rate", "weight_decay", "seed").values
    reached = np.isfinite(steps).all(-1)
    if reached.sum() <= len(start):
        raise ValueError(
            f"fit_law: {structure} has {reached.sum()} cells in which every run has {name}, "
            f"too few for the {len(start)} numbers of {form}"
        )
    rates, decays = 10 ** _log_grid(results)[:, reached]
    steps = steps[reached]

    def error(numbers: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(law(numbers, rates, decays), 1e-3)) - np.log(target)

    def fitted(seeds: np.ndarray) -> np.ndarray:
        target = steps[:, seeds].mean(-1)
        return optimize.least_squares(error, start, args=(target,), x_scale="jac", bounds=(1e-9, np.inf)).x

    names = [letter for letter in "abcpqr" if re.search(rf"\b{letter}\b", FORMS[form].formula)]
    found = dict(zip(names, _bootstraps(fitted, results.sizes["seed"], resamples=300), strict=True))
    numbers = np.array([found[name].value for name in names])
    relative = float(np.sqrt((error(numbers, steps.mean(-1)) ** 2).mean()))
    return Law(found, relative, int(reached.sum()))
