"""What a study's grid says beyond its best cells: basins, ridges, sites at equal strength, laws; all with intervals.

Most intervals are bootstraps over the seeds, with every cell resampled alike, because a seed is the same data and the
same initial weights in every cell. Percentiles are too narrow for few seeds: of means of 5 normal values, 95% intervals
hold 84%, whichever of SciPy's three methods makes them, for no resample lies outside of the values drawn from. So
percentiles are stretched here, away from the median of the resamples, by what Student's quantile is wider than the
normal one: 95% of means of 3 to 10 normal values are held, 88% of means of 5 exponential ones. What is best of a grid
looks better than it is, which no resampling sees: with 5 or 10 seeds drawn like those of the kept studies, the share of
a basin is held in 86% to 94%, a best decay in 94% to 100%.
"""

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

    def clipped(self, low: float, high: float) -> "Estimate":
        """With bounds that a value which is never outside of `low` and `high` can have."""
        return Estimate(self.value, *(float(np.clip(bound, low, high)) for bound in self[1:]))

    def power_of_ten(self) -> "Estimate":
        """What this is the logarithm of."""
        return Estimate(*(float(10**value) for value in self))


def bootstrap(statistic: Callable[[np.ndarray], float], seeds: int) -> Estimate:
    """`statistic(numbers)` for the numbers of all seeds, with its interval for seeds drawn with replacement.

    Values that are not finite are left out of the interval, which is NaN where half of them are, where that of all
    seeds is, and for a single seed.
    """
    return _bootstraps(lambda numbers: np.array([statistic(numbers)]), seeds)[0]


def _bootstraps(statistics: Callable[[np.ndarray], np.ndarray], seeds: int) -> list[Estimate]:
    """`bootstrap` of several statistics in one; which seeds are drawn counts, their order does not."""
    numbers = np.sort(np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds)))
    different, which = np.unique(numbers, axis=0, return_inverse=True)
    drawn = np.stack([statistics(each) for each in different])[which.ravel()]
    return [_estimate(*each, seeds) for each in zip(statistics(np.arange(seeds)), drawn.T, strict=True)]


def _estimate(value: float, drawn: np.ndarray, seeds: int) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    if seeds < 2 or not np.isfinite(value) or 2 * len(finite) <= len(drawn):
        return Estimate(float(value), np.nan, np.nan)
    beyond = (1 + CONFIDENCE) / 2
    low, median, high = np.percentile(finite, [100 * (1 - beyond), 50, 100 * beyond])
    stretch = stats.t.ppf(beyond, seeds - 1) / stats.norm.ppf(beyond) * np.sqrt(seeds / (seeds - 1))
    return Estimate(float(value), *(float(median + stretch * (bound - median)) for bound in (low, high)))


def _jackknife(log: float, without_one: np.ndarray) -> Estimate:
    """The exponential of `log` and its interval, from what each seed left out gives."""
    count = len(without_one)
    width = np.nan
    if count > 1:
        width = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.sqrt((count - 1) * without_one.var())
    return Estimate(float(np.exp(log)), *(float(np.exp(log + side * width)) for side in (-1, 1)))


# Basins ---------------------------------------------------------------------------------------------------------------


class Basin(NamedTuple):
    """How forgiving the grid of a structure is.

    Attributes:
      share: of all cells of the grid, those within the tolerance of the best; NaN where every cell has a diverged run.
      correlation: of log rate and log decay over the cells of the basin; 0 where each can be tuned alone, -1 where only
        their product counts; NaN where the basin is one row or one column.
    """

    share: Estimate
    correlation: Estimate


def basin(results: xr.Dataset, structure: str, tolerance: float = 0.01) -> Basin:
    """The cells of `structure` whose mean objective is within `tolerance`, relative, of its best.

    Cells with a diverged run, and those at a rate or a decay of zero, are not part of it; one of them at zero may be
    the best.
    """
    share, correlation = _bootstraps(_basin(results, structure, tolerance), results.sizes["seed"])
    return Basin(share.clipped(0, 1), correlation.clipped(-1, 1))


def basin_difference(results: xr.Dataset, structure: str, other: str, tolerance: float = 0.01) -> Estimate:
    """The share of `structure`'s basin minus that of the other, with both resampled alike."""
    first, second = _basin(results, structure, tolerance), _basin(results, other, tolerance)
    found = bootstrap(lambda numbers: float(first(numbers)[0] - second(numbers)[0]), results.sizes["seed"])
    return found.clipped(-1, 1)


def _basin(results: xr.Dataset, structure: str, tolerance: float) -> Callable[[np.ndarray], np.ndarray]:
    """Share and correlation of the basin, for the numbers of the seeds."""
    objective, logs = scores(results, structure), _log_grid(results)
    placed = np.isfinite(logs).all(0)

    def measure(numbers: np.ndarray) -> np.ndarray:
        mean = objective[..., numbers].mean(-1)
        if not np.isfinite(mean).any():
            return np.array([np.nan, np.nan])
        inside = grids.within(mean, mean.max(), tolerance) & placed
        rate, decay = logs[:, inside]
        spread = rate.std() * decay.std() if len(rate) else 0.0
        together = ((rate - rate.mean()) * (decay - decay.mean())).mean() / spread if spread > 0 else np.nan
        return np.array([inside.mean(), together])

    return measure


def scores(results: xr.Dataset, structure: str) -> np.ndarray:
    """The objective over (rate, decay, seed), larger is better; minus infinity at cells with a diverged run."""
    rows = grids.structure_of(results, structure)
    sign = 1 if results.attrs["maximize"] else -1
    scores = (sign * rows[results.attrs["objective"]]).where(~rows.diverged.any("seed"), -np.inf)
    return scores.transpose("learning_rate", "weight_decay", "seed").values


def _log_grid(results: xr.Dataset) -> np.ndarray:
    """log10 of the rate and of the decay, over (2, rate, decay); minus infinity at zero."""
    with np.errstate(divide="ignore"):
        rates, decays = np.log10(results.learning_rate.values), np.log10(results.weight_decay.values)
    return np.stack(np.meshgrid(rates, decays, indexing="ij"))


# Ridges ---------------------------------------------------------------------------------------------------------------


class Ridge(NamedTuple):
    """How the best decay follows the learning rate.

    Attributes:
      decays: the best decay at every rate of the range; NaN where no decay but zero is near the best, or every cell has
        a diverged run.
      slope: of log best decay against log rate: 0 where it stays, -1 where the product of both counts; NaN for a single
        rate.
      moved: the best decay at the last rate divided by that at the first.
    """

    decays: list[Estimate]
    slope: Estimate
    moved: Estimate


def ridge(results: xr.Dataset, structure: str, rates: Sequence[float]) -> Ridge:
    """The best decay at each of `rates`: the centre of the decays within half a percent of the best, in logarithms.

    The grid's argmax alone would jump by whole cells. A decay of zero, which has no logarithm, may be the best, but is
    not part of a centre.

    Raises:
      ValueError: no rates, or one that the study does not have, or zero.
    """
    known = results.learning_rate.values.tolist()
    if not len(rates) or any(rate not in known or rate == 0 for rate in rates):
        there, given = (", ".join(map(str, each)) or "none" for each in (filter(None, known), rates))
        raise ValueError(f"ridge: rates must be some of the study's, above 0; got {given}, there are {there}")
    places = [known.index(rate) for rate in rates]
    objective, (log_rates, logs) = scores(results, structure)[places], _log_grid(results)[:, places]
    placed, offsets = np.isfinite(logs[0]), log_rates[:, 0] - log_rates[:, 0].mean()

    def statistics(numbers: np.ndarray) -> np.ndarray:
        mean = objective[..., numbers].mean(-1)
        near = grids.within(mean, mean.max(1, keepdims=True), 0.005) & np.isfinite(mean) & placed
        centres = np.array(
            [decays[row].mean() if row.any() else np.nan for decays, row in zip(logs, near, strict=True)]
        )
        slope = (centres - centres.mean()) @ offsets / (offsets @ offsets) if len(rates) > 1 else np.nan
        return np.array([*centres, slope, centres[-1] - centres[0]])

    *decays, slope, moved = _bootstraps(statistics, results.sizes["seed"])
    ends = (logs[0, placed].min(), logs[0, placed].max()) if placed.any() else (np.nan, np.nan)
    width = ends[1] - ends[0]
    return Ridge(
        [decay.clipped(*ends).power_of_ten() for decay in decays], slope, moved.clipped(-width, width).power_of_ten()
    )


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
    its two decays around it, linearly in the logarithm of the strength, seed by seed. No decay is as strong as a
    strength of zero.

    Args:
      strength: what is equal: `weight_norm`, at the end, or `decay_share`, of the whole network.
      steepest: the largest difference between the means of two neighbours to interpolate between.

    Returns:
      None where `reference` has no cell without a diverged run, no decays of `other` lie around its strength, or those
      that do are too different.

    Raises:
      ValueError: no such strength, structure or rate, or a study without `measure_decay` was asked for `decay_share`.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"at_equal_strength: unknown strength {strength!r}; known are {', '.join(STRENGTHS)}")
    if strength not in results:
        raise ValueError(f"at_equal_strength: the study has no {strength}; it was run without measure_decay")
    rows = grids.by_structure(results)
    for structure in (reference, other):
        grids.require_structure(rows, structure)
    if rate not in (known := results.learning_rate.values.tolist()):
        rates = ", ".join(f"{each:g}" for each in known)
        raise ValueError(f"at_equal_strength: the study has no learning rate {rate:g}; its rates are {rates}")
    best = grids.best_decays(rows.sel(structure=[reference], learning_rate=[rate])).isel(structure=0, learning_rate=0)
    rows = rows.sel(learning_rate=rate)
    measured = rows[strength] if "layer" not in rows[strength].dims else rows[strength].sel(layer="all")
    reported = rows[results.attrs["reported"]]
    if best.score.isnull():
        return None
    at_best = {"structure": reference, "weight_decay": float(best.weight_decay)}
    wanted = float(measured.sel(at_best).mean("seed"))
    order = ("weight_decay", "seed")
    strengths = measured.sel(structure=other).transpose(*order).values.mean(-1)
    usable = ~rows.diverged.sel(structure=other).any("seed").values & (strengths > 0)
    if not wanted > 0:
        return None
    values = reported.sel(structure=other).transpose(*order).values[usable]
    found = _crossing(np.log(strengths[usable]), values, float(np.log(wanted)), steepest)
    return None if found is None else grids.difference(found, reported.sel(at_best).values)


def _crossing(strengths: np.ndarray, values: np.ndarray, wanted: float, steepest: float) -> np.ndarray | None:
    """The rows of `values` between the first two neighbours of `strengths` that `wanted` lies between."""
    for low in range(len(strengths) - 1):
        begin, end = strengths[low : low + 2]
        if min(begin, end) <= wanted <= max(begin, end):
            with np.errstate(invalid="ignore"):  # infinite steps to a goal that no run got to
                if abs(values[low].mean() - values[low + 1].mean()) > steepest:
                    return None
                share = (wanted - begin) / (end - begin) if end != begin else 0.0
                weights = ((1 - share, values[low]), (share, values[low + 1]))
                return np.sum([weight * row for weight, row in weights if weight], axis=0)
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
    Dependent Variables"): leave out of `results` what never would. Cells with a diverged run, and those at a rate or a
    decay of zero, which no form can be asked at, are left out. Intervals are Student's, of a jackknife over the seeds,
    in the logarithms of the numbers; NaN for a single seed.

    Args:
      form: a name in `FORMS`.

    Raises:
      ValueError: no such form or structure, or no more such cells than numbers to fit.
    """
    if form not in FORMS:
        raise ValueError(f"fit_law: unknown form {form!r}; known are {', '.join(FORMS)}")
    _, law, start = FORMS[form]
    rows = grids.structure_of(results, structure)
    axes = ("learning_rate", "weight_decay", "seed")
    rates, decays = np.meshgrid(results.learning_rate.values, results.weight_decay.values, indexing="ij")
    sound = ~rows.diverged.transpose(*axes).values.any(-1) & (rates * decays > 0)
    steps, rates, decays = rows[name].transpose(*axes).values[sound], rates[sound], decays[sound]
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
    left_out = [likeliest(np.delete(seeds, seed)) for seed in seeds] if len(seeds) > 1 else [parameters]
    without_one = np.stack(left_out)[:, :count]
    fitted = dict(zip(names, map(_jackknife, parameters, without_one.T), strict=False))
    error = float(np.sqrt((residuals(parameters[:count]) ** 2).mean()))
    return Law(fitted, error, int(whole.sum()), int(np.isinf(steps).sum()))
