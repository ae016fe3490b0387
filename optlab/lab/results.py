"""Results: reading and writing the dataset of a study, and what its grid says."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from optlab.lab.study import AXES, StudyError

FILE = "results.nc"
VARIABLES = ("test_accuracy", "test_loss", "train_loss", "validation_accuracy", "weight_norm", "diverged")
ATTRIBUTES = (
    "task", "description", "steps", "b1", "b2", "eps", "device", "versions", "python", "command", "runs", "seconds",
)  # fmt: skip
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over seeds and half the width of its confidence interval, NaN for a single seed."""

    mean: float
    half_width: float

    def percent(self) -> str:
        """In percent, as `90.1 ± 0.6`."""
        width = "?" if np.isnan(self.half_width) else f"{100 * self.half_width:.1f}"
        return f"{100 * self.mean:.1f} ± {width}".replace("-0.0 ", "0.0 ")


class Best(NamedTuple):
    """The best cell of a site, chosen by mean validation accuracy among cells without a diverged run."""

    site: str
    learning_rate: float
    weight_decay: float
    test_accuracy: Interval
    against_none: Interval | None
    weight_norm: float
    diverged_share: float


def save(results: xr.Dataset, path: Path) -> None:
    """Writes the dataset as netCDF; the file is whole or not there."""
    unfinished = path.with_suffix(".unfinished")
    results.to_netcdf(unfinished, engine="h5netcdf")
    os.replace(unfinished, path)


def load(path: Path) -> xr.Dataset:
    """Reads what `save` wrote.

    Raises:
      StudyError: no such file, no netCDF file, or one without a study's axes and variables.
    """
    try:
        if not path.is_file():
            raise StudyError(f"{path} is not a file")
        results = xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is not a netCDF file ({str(error).splitlines()[0]})") from None
    missing = [name for name in (*AXES, *VARIABLES) if name not in results.variables]
    if missing:
        raise StudyError(f"{path} holds no study: it lacks {', '.join(missing)}")
    if any(set(results[name].dims) != set(AXES) for name in VARIABLES):
        raise StudyError(f"{path} holds no whole study: its variables must have the axes {', '.join(AXES)}")
    if unknown := [name for name in ATTRIBUTES if name not in results.attrs]:
        raise StudyError(f"{path} does not say how it was run: it lacks {', '.join(unknown)}")
    return results.transpose(*AXES)


def interval(values: np.ndarray) -> Interval:
    """Mean of `values` and half the width of Student's 95% interval around it."""
    count = len(values)
    if count < 2:
        return Interval(float(values.mean()), float("nan"))
    width = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return Interval(float(values.mean()), float(width))


def best_decays(results: xr.Dataset) -> xr.Dataset:
    """For every site and learning rate, the runs at the decay with the best mean validation accuracy.

    Cells with a diverged run are left out; where nothing is left, every variable is NaN. `weight_decay` becomes a
    coordinate over the other two.
    """
    score = results.validation_accuracy.where(~results.diverged.any("seed")).mean("seed", skipna=False)
    chosen = results.isel(weight_decay=score.fillna(-1).argmax("weight_decay"))
    return chosen.assign(score=score.max("weight_decay")).where(score.notnull().any("weight_decay"))


def best_cells(results: xr.Dataset) -> list[Best]:
    """The best cell of every site that has a cell without a diverged run."""
    by_rate = best_decays(results)
    found = [site for site in by_rate.site.values if by_rate.score.sel(site=site).notnull().any()]
    chosen = {str(site): by_rate.sel(site=site).isel(by_rate.score.sel(site=site).argmax(...)) for site in found}
    plain = chosen.get("none")
    return [
        Best(
            site=site,
            learning_rate=float(cell.learning_rate),
            weight_decay=float(cell.weight_decay),
            test_accuracy=interval(cell.test_accuracy.values),
            against_none=None
            if plain is None or site == "none"
            else interval((cell.test_accuracy - plain.test_accuracy).values),
            weight_norm=float(cell.weight_norm.mean()),
            diverged_share=float(results.diverged.sel(site=site).mean()),
        )
        for site, cell in chosen.items()
    ]


def gains(results: xr.Dataset) -> dict[str, list[Interval]] | None:
    """Test accuracy at the best decay minus that without decay, seed by seed, per site and learning rate.

    None where the study has no site `none`; an interval of NaN where every cell of the row has a diverged run.
    """
    if "none" not in results.site.values:
        return None
    by_rate = best_decays(results).test_accuracy
    difference = (by_rate - by_rate.sel(site="none")).transpose("site", "learning_rate", "seed")
    return {str(row.site.values): [interval(cell.values) for cell in row] for row in difference if row.site != "none"}
