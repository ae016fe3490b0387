"""What a study's grid says beyond its best cells: basins, ridges, sites at equal strength, laws; all with intervals.

Most intervals are percentile bootstraps over the seeds, with every cell resampled alike, because a seed is the same
data and the same initial weights in every cell. Plain percentiles are too narrow for few seeds; those taken here make
intervals of a mean as wide as Student's (Hesterberg 2015, "What Teachers Should Know About the Bootstrap").
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import optimize, special, stats

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


def _bootstraps(statistics: Callable[[np.ndarray], np.ndarray], seeds: int) -> list[Estimate]:
    """`bootstrap` of several statistics in one; which seeds are drawn counts, their order does not."""
    generator = np.random.default_rng(0)
    once = functools.cache(lambda drawn: statistics(np.array(drawn)))
    drawn = np.stack([once(tuple(np.sort(generator.integers(seeds, size=seeds)).tolist())) for _ in range(RESAMPLES)])
    return [_estimate(*each, seeds) for each in zip(statistics(np.arange(seeds)), drawn.T, strict=True)]


def _estimate(value: float, drawn: np.ndarray, seeds: int) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    student = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)
    tail = 100 * special.ndtr(-student * np.sqrt(seeds / (seeds - 1)))
    low, high = np.percentile(finite, [tail, 100 - tail]) if 2 * len(finite) > len(drawn) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def _jackknife(log: float, without_one: np.ndarray) -> Estimate:
    """The exponential of `log` and its interval, from what each seed left out gives."""
    count = len(without_one)
    error = np.sqrt((count - 1) * without_one.var()) if count > 1 else np.nan
    width = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    return Estimate(*(float(np.exp(log + side * width)) for side in (0, -1, 1)))


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
    measure = _basin(results, structure, tolerance)
    return Basin(*_bootstraps(measure, results.sizes["seed"]))


def basin_difference(results: xr.Dataset, structure: str, other: str, tolerance: float = 0.01) -> Estimate:
    """The share of `structure`'s basin minus that of the other, with both resampled alike."""
    first, second = _basin(results, structure, tolerance), _basin(results, other, tolerance)
    return bootstrap(lambda numbers: float(first(numbers)[0] - second(numbers)[0]), results.sizes["seed"])


def _basin(results: xr.Dataset, structure: str, tolerance: float) -> Callable[[np.ndarray], np.ndarray]:
    """Share and correlation of the basin, for the numbers of the seeds."""
    objective, logs = scores(results, structure), _log_grid(results)

    def measure(numbers: np.ndarray) -> np.ndarray:
        mean = objective[..., numbers].mean(-1)
        inside = grids.within(mean, mean.max(), tolerance)
        rate, decay = logs[:, inside]
        spread = rate.std() * decay.std() if len(rate) else 0.0
        together = ((rate - rate.mean()) * (decay - decay.mean())).mean() / spread if spread > 0 else np.nan
        return np.array([inside.mean(), together])

    return measure


def scores(results: xr.Dataset, structure: str) -> np.ndarray:
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
      moved: the best decay at the last rate divided by that at the first.
    """

    decays: list[Estimate]
    slope: Estimate
    moved: Estimate


def ridge(results: xr.Dataset, structure: str, rates: Sequence[float]) -> Ridge:
    """The best decay at each of `rates`: the centre of the decays within half a percent of the best, in logarithms.

    The grid's argmax alone would jump by whole cells.
    """
    places = [results.learning_rate.values.tolist().index(rate) for rate in rates]
    objective = scores(results, structure)[places]
    logs, log_rates = np.log10(results.weight_decay.values), np.log10(np.array(rates))
    offsets = log_rates - log_rates.mean()

    def statistics(numbers: np.ndarray) -> np.ndarray:
        mean = objective[..., numbers].mean(-1)
        near = grids.within(mean, mean.max(1, keepdims=True), 0.005)
        centres = np.array([logs[row].mean() if row.any() else np.nan for row in near])
        slope = (centres - centres.mean()) @ offsets / (offsets @ offsets)
        return np.array([*10**centres, slope, 10 ** (centres[-1] - centres[0])])

    *decays, slope, moved = _bootstraps(statistics, results.sizes["seed"])
    return Ridge(decays, slope, moved)


# Equal strength -------------------------------------------------------------------------------------------------------


def at_equal_strength(
    results: xr.Dataset,
    reference: str,
    other: str,
    rate: float,
    strength: str = "weight_norm",
    steepest: float = np.inf,
) -> Interval | None:
    """What is reported under `other` minus that under `reference`, with as much decay in both.

    How much is that of the best decay of `reference` at this learning rate, measured; `other` is interpolated between
    its two decays around it, linearly in the logarithm of the strength, seed by seed.

    Args:
      strength: what is equal: `weight_norm`, at the end, or `decay_share`, of the whole network.
      steepest: the largest difference between the means of two neighbours to interpolate between.

    Returns:
      None where `reference` has no cell without a diverged run, no decays of `other` lie around its strength, or those
      that do are too different.
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
    found = _crossing(strengths, values, wanted, steepest)
    return None if found is None else grids.interval(found - reported.sel(at_best).values)


def _crossing(strengths: np.ndarray, values: np.ndarray, wanted: float, steepest: float) -> np.ndarray | None:
    """The rows of `values` between the first two neighbours of `strengths` that `wanted` lies between."""
    for low in range(len(strengths) - 1):
        begin, end = strengths[low : low + 2]
        if min(begin, end) <= wanted <= max(begin, end):
            if abs(values[low].mean() - values[low + 1].mean()) > steepest:
                return None
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
      error: root mean square, over the cells in which every run got there, of the logarithm of fitted by the mean of
        measured: 0.1 is ten percent.
      cells: how many those are.
      censored: how many runs of other cells were fitted as longer than the study.
    """

    numbers: dict[str, Estimate]
    error: float
    cells: int
    censored: int


def fit_law(results: xr.Dataset, structure: str, name: str, form: str) -> Law:
    """How `name`, a number of steps, follows the learning rate and the decay at `structure`.

    The likeliest positive numbers, for runs that scatter normally around the logarithm of the law. A run that did not
    get there counts as one that takes longer than the study (Tobin 1958, "Estimation of Relationships for Limited
    Dependent Variables"): leave out of `results` what never would. Cells with a diverged run are left out. Intervals
    are Student's, of a jackknife over the seeds, in the logarithms of the numbers.

    Args:
      form: a name in `FORMS`.

    Raises:
      ValueError: no such form, or no more such cells than numbers to fit.
    """
    if form not in FORMS:
        raise ValueError(f"fit_law: unknown form {form!r}; known are {', '.join(FORMS)}")
    _, law, start = FORMS[form]
    rows = grids.by_structure(results).sel(structure=structure)
    axes = ("learning_rate", "weight_decay", "seed")
    sound = ~rows.diverged.transpose(*axes).values.any(-1)
    steps = rows[name].transpose(*axes).values[sound]
    rates, decays = 10 ** _log_grid(results)[:, sound]
    limit = float(results.attrs["steps"])
    whole = np.isfinite(steps).all(-1)
    if whole.sum() <= len(start):
        raise ValueError(
            f"fit_law: {structure} has {whole.sum()} cells in which every run has {name}, "
            f"too few for the {len(start)} numbers of {form}"
        )

    def expected(logs: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.log(np.clip(law(np.exp(logs), rates, decays), 1e-3, 1e12))

    def residuals(logs: np.ndarray) -> np.ndarray:
        return expected(logs)[whole] - np.log(steps[whole].mean(-1))

    def surprise(parameters: np.ndarray, runs: np.ndarray) -> float:
        *logs, log_scatter = parameters
        away = (np.log(np.minimum(runs, limit)) - expected(np.array(logs))[:, None]) / np.exp(log_scatter)
        reached = np.isfinite(runs)
        return float(np.where(reached, away**2 / 2 + log_scatter, -special.log_ndtr(-away)).sum())

    count = len(start)
    nearest = optimize.least_squares(lambda x: residuals(np.log(x)), start, x_scale="jac", bounds=(1e-9, np.inf)).x
    begin = np.log(nearest)
    parameters = np.append(begin, np.log(np.sqrt((residuals(begin) ** 2).mean()) + 1e-3))
    bounds = [(-30.0, 30.0)] * count + [(np.log(1e-3), None)]

    def likeliest(numbers: np.ndarray) -> np.ndarray:
        return optimize.minimize(surprise, parameters, args=(steps[:, numbers],), bounds=bounds, tol=1e-6).x

    seeds = np.arange(results.sizes["seed"])
    parameters = likeliest(seeds)
    names = [letter for letter in "abcpqr" if re.search(rf"\b{letter}\b", FORMS[form].formula)]
    without_one = np.stack([likeliest(np.delete(seeds, seed)) for seed in seeds])[:, :count]
    fitted = dict(zip(names, map(_jackknife, parameters, without_one.T), strict=False))
    error = float(np.sqrt((residuals(parameters[:count]) ** 2).mean()))
    return Law(fitted, error, int(whole.sum()), int(np.isinf(steps).sum()))
