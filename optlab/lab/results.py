"""Results: the dataset of a study, made, written and read, and what its grid says."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import stats

from optlab.lab import folder, record
from optlab.lab.derivations import from_text
from optlab.lab.errors import StudyError
from optlab.lab.files import replace
from optlab.lab.study import Structure, Study
from optlab.lab.tasks import Task

FILE = "results.nc"
AXES = ("site", "coupling", "gate", "learning_rate", "weight_decay", "seed")
VARIABLES = ("train_loss", "weight_norm", "trained", "diverged", "diverged_at")
ATTRIBUTES = (
    "task", "description", "steps", "core", "objective", "reported", "maximize", "device", "versions", "python",
    "command", "runs", "seconds", "equations",
)  # fmt: skip
CONFIDENCE = 0.95


# Making ---------------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Finished runs of one structure: `arrays` over (seeds, cells), the curves over (seeds, cells, step, ...)."""

    structure: Structure
    seeds: tuple[int, int]
    cells: tuple[int, int]
    arrays: Mapping[str, np.ndarray]


def assemble(study: Study, task: Task, parts: Sequence[Part], attrs: Mapping[str, Any]) -> xr.Dataset:
    """The dataset of a study whose runs are all in `parts`.

    Over `AXES` it has every metric at the end, every summary, `weight_norm`, `diverged`, `diverged_at`, after how many
    updates (-1: never), and `trained`, which is False for a combination without meaning, whose metrics are NaN; over
    `AXES` and `step` the curve of every metric, `curve_<metric>`. The site `none` has the same runs at every decay,
    coupling and gate.

    With `measure_decay` it has `decay_share` and `decay_rate`, see `record.of_step`, over `AXES` and `layer`, and their
    curves over `AXES`, `step` and `layer`: means over the steps since the measurement before, without those after a run
    diverged, NaN where there are no others.
    """
    curves = {name: _grid(study, parts, name, np.nan) for name in parts[0].arrays if name != "diverged_at"}
    steps = np.arange(task.every, task.steps + 1, task.every, dtype=np.int32)
    diverged_at = _grid(study, parts, "diverged_at", -1)
    strength = {name: curves.pop(name) for name in record.NAMES if name in curves}
    finals = {name: curve[..., -1] for name, curve in curves.items()}
    finals |= {name: np.asarray(value, np.float32) for name, value in _summaries(task, steps, curves).items()}
    finals |= {"diverged_at": diverged_at.astype(np.int32), "diverged": diverged_at != -1}
    finals |= {"trained": _grid(study, parts, "trained", False)}
    coordinates = {
        "site": list(study.sites),
        "coupling": list(study.couplings),
        "gate": list(study.gates),
        "learning_rate": list(study.learning_rates),
        "weight_decay": list(study.weight_decays),
        "seed": np.arange(study.seeds),
        "step": steps,
    }
    variables = {name: (AXES, values) for name, values in finals.items()}
    variables |= {f"curve_{name}": ((*AXES, "step"), values) for name, values in curves.items()}
    if strength:
        coordinates["layer"] = record.layers(jax.eval_shape(task.init, jax.random.key(0)))
        variables |= {name: ((*AXES, "layer"), values[..., -1, :]) for name, values in strength.items()}
        variables |= {f"curve_{name}": ((*AXES, "step", "layer"), values) for name, values in strength.items()}
    return xr.Dataset(variables, coordinates, attrs)


def _summaries(task: Task, steps: np.ndarray, curves: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array]:
    summary = lambda curves: task.summary(jnp.asarray(steps), curves)  # noqa: E731
    for _ in AXES:
        summary = jax.vmap(summary)
    return jax.jit(summary)({name: jnp.asarray(values) for name, values in curves.items()})


def _grid(study: Study, parts: Sequence[Part], name: str, absent: Any) -> np.ndarray:
    """The values of all parts in the order of `AXES`, and of what axes they have more."""
    first = parts[0].arrays
    more = () if name == "trained" else first[name].shape[2:]
    dtype = bool if name == "trained" else first[name].dtype
    sizes = [len(axis) for axis in (study.sites, study.couplings, study.gates, study.learning_rates)]
    grid = np.full((*sizes, len(study.weight_decays), study.seeds, *more), absent, dtype)
    for structure in study.structures():
        cells = len(study.cells(structure))
        whole = np.full((study.seeds, cells, *more), absent, dtype)
        for part in parts:
            if part.structure == structure:
                whole[slice(*part.seeds), slice(*part.cells)] = True if name == "trained" else part.arrays[name]
        own = np.moveaxis(whole, 0, 1).reshape(len(study.learning_rates), -1, study.seeds, *more)
        grid[_place(study, structure)] = own
    return grid


def _place(study: Study, structure: Structure) -> tuple[Any, ...]:
    site = study.sites.index(structure.site)
    if structure.site == "none":
        return (site, slice(None), slice(None))
    return (site, study.couplings.index(structure.coupling), study.gates.index(structure.gate))


# Writing and reading --------------------------------------------------------------------------------------------------


def save(results: xr.Dataset, path: str | Path) -> None:
    """Writes the dataset as netCDF; the file is whole or not there.

    Raises:
      StudyError: it can't be written.
    """
    encoding = {name: {"zlib": True, "complevel": 5, "shuffle": True} for name in results.data_vars}
    replace(Path(path), bytes(results.to_netcdf(engine="h5netcdf", encoding=encoding)))


def load(path: str | Path) -> xr.Dataset:
    """Reads what `save` wrote.

    Raises:
      StudyError: no such file, no netCDF file, or one without a study's axes and variables, without runs, or without
        the equations of its structures.
    """
    if not Path(path).is_file():
        raise StudyError(f"{path} is not a file")
    try:
        results = xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is not a netCDF file ({str(error).splitlines()[0]})") from None
    measured = [results.attrs[role] for role in ("objective", "reported") if role in results.attrs]
    missing = [name for name in (*AXES, *VARIABLES, *measured) if name not in results.variables]
    if missing:
        raise StudyError(f"{path} holds no study: it lacks {', '.join(missing)}")
    if any(set(results[name].dims) != set(AXES) for name in (*VARIABLES, *measured)):
        raise StudyError(f"{path} holds no whole study: its variables must have the axes {', '.join(AXES)}")
    if (empty := [axis for axis in AXES if not results.sizes[axis]]) or not results.trained.any():
        raise StudyError(f"{path} holds no run: {f'its axis {empty[0]} is empty' if empty else 'none was trained'}")
    if unknown := [name for name in ATTRIBUTES if name not in results.attrs]:
        raise StudyError(f"{path} does not say how it was run: it lacks {', '.join(unknown)}")
    try:
        told = from_text(results.attrs["equations"])
    except ValueError as error:
        raise StudyError(f"{path} holds {error}") from None
    if untold := [name for name in by_structure(results).structure.values.tolist() if name not in told]:
        raise StudyError(f"{path} does not say what {', '.join(untold)} computes")
    return results.transpose(*AXES, ...)


def differences(path: Path, decided: Callable[[], Mapping[str, Any]]) -> list[str]:
    """What differs between a study and the one whose results are there; nothing where they don't say.

    Args:
      decided: gives the `Decided.values` of the study.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            before = json.loads(data.attrs["decided"])
    except (OSError, ValueError, KeyError):
        return []
    return folder.differences(before, decided())


# What the grid says ---------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A mean over seeds and half the width of its confidence interval, NaN for a single seed."""

    mean: float
    half_width: float

    def percent(self) -> str:
        """In percent, as `90.1 ± 0.6`."""
        width = "?" if np.isnan(self.half_width) else f"{100 * self.half_width:.1f}"
        return f"{100 * self.mean:.1f} ± {width}".replace("-0.0 ", "0.0 ")

    def text(self, name: str) -> str:
        """As the metric `name` is written: a share in percent, anything else with four digits."""
        if is_share(name):
            return self.percent()
        width = "?" if np.isnan(self.half_width) else f"{self.half_width:.2g}"
        return f"{self.mean:.4g} ± {width}"


def is_share(name: str) -> bool:
    """Whether the metric `name` is a share, to be written in percent."""
    return name.endswith("accuracy")


def title(name: str) -> str:
    """The metric `name` in words, with its unit."""
    return name.replace("_", " ") + (" (%)" if is_share(name) else "")


class Best(NamedTuple):
    """The best cell of a structure, chosen by the mean objective among the cells without a diverged run."""

    structure: str
    site: str
    learning_rate: float
    weight_decay: float
    reported: Interval
    against_none: Interval | None
    weight_norm: float
    diverged_share: float


def mean_and_width(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the last axis of `values`, their mean and half the width of Student's 95% interval around it.

    The width is NaN for a single value.
    """
    count = values.shape[-1]
    if count < 2:
        return values.mean(-1), np.full(values.shape[:-1], np.nan)
    with np.errstate(invalid="ignore"):
        width = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(-1, ddof=1) / np.sqrt(count)
        return values.mean(-1), width


def interval(values: np.ndarray) -> Interval:
    """Mean of `values`, over seeds, and half the width of Student's 95% interval around it."""
    mean, width = mean_and_width(values)
    return Interval(float(mean), float(width))


def by_structure(results: xr.Dataset) -> xr.Dataset:
    """The dataset with one axis `structure`, of those that were trained, in the place of site, coupling and gate.

    One that has that axis already stays as it is.
    """
    if "structure" in results.dims:
        return results
    parts: list[xr.Dataset] = []
    for site in results.site.values:
        for coupling in results.coupling.values if site != "none" else results.coupling.values[:1]:
            for gate in results.gate.values if site != "none" else results.gate.values[:1]:
                part = results.sel(site=site, coupling=coupling, gate=gate)
                if part.trained.all():
                    name = str(site) if site == "none" else str(Structure(str(site), str(coupling), str(gate)))
                    parts.append(part.reset_coords(drop=True).assign_coords(structure=name, site=str(site)))
    return xr.concat(parts, "structure", coords=["structure", "site"], combine_attrs="override")


def structure_of(results: xr.Dataset, name: str) -> xr.Dataset:
    """The runs of one structure.

    Raises:
      ValueError: the study has no such structure.
    """
    rows = by_structure(results)
    require_structure(rows, name)
    return rows.sel(structure=name)


def require_structure(rows: xr.Dataset, name: str) -> None:
    """Refuses a name that none of the structures has."""
    if name not in (known := rows.structure.values.tolist()):
        raise ValueError(f"the study has no structure {name!r}; its structures are {', '.join(known)}")


def _scores(by_structure: xr.Dataset) -> xr.DataArray:
    """The mean objective of every cell, larger is better; finite, or NaN where a run diverged."""
    sign = 1 if by_structure.attrs["maximize"] else -1
    objective = by_structure[by_structure.attrs["objective"]].where(~by_structure.diverged.any("seed"))
    return (sign * objective).mean("seed", skipna=False).clip(min=float(np.finfo(np.float32).min))


def near_best(results: xr.Dataset, tolerance: float = 0.01) -> xr.DataArray:
    """Whether a cell is as good as the best one of its structure: bool over (structure, learning_rate, weight_decay).

    That is a cell without a diverged run whose mean objective differs from the best one by no more than `tolerance`
    times its size. Without decay, whose columns are one, it is only ever the first.

    Args:
      tolerance: relative, >= 0.
    """
    rows = by_structure(results)
    score = _scores(rows).astype(np.float64)
    inside = within(score, score.max(["learning_rate", "weight_decay"]), tolerance)
    first = rows.weight_decay == rows.weight_decay[0]
    return (inside & (first | (rows.structure != "none"))).transpose("structure", "learning_rate", "weight_decay")


def within(score: Any, best: Any, tolerance: float) -> Any:
    """Whether `score`, of which more is better, differs from the best by no more than `tolerance` times its size."""
    return score >= best - tolerance * abs(best)


def best_decays(results: xr.Dataset) -> xr.Dataset:
    """For every structure and learning rate, the runs at the decay with the best mean objective.

    Cells with a diverged run are left out; where nothing is left, every variable is NaN. `weight_decay` becomes a
    coordinate over the other two; `score` is the mean objective, its sign such that larger is better.
    """
    results = by_structure(results)
    score = _scores(results)
    chosen = results.isel(weight_decay=score.fillna(-np.inf).argmax("weight_decay"))
    return chosen.assign(score=score.max("weight_decay")).where(score.notnull().any("weight_decay"))


def best_cells(results: xr.Dataset) -> list[Best]:
    """The best cell of every structure that has a cell without a diverged run."""
    name = results.attrs["reported"]
    chosen = {str(row.structure.values): row for row in best_rows(best_decays(results))}
    plain, diverged = chosen.get("none"), by_structure(results).diverged
    return [
        Best(
            structure=structure,
            site=str(cell.site.values),
            learning_rate=float(cell.learning_rate),
            weight_decay=float(cell.weight_decay),
            reported=interval(cell[name].values),
            against_none=None
            if plain is None or structure == "none"
            else difference(cell[name].values, plain[name].values),
            weight_norm=float(cell.weight_norm.mean()),
            diverged_share=float(diverged.sel(structure=structure).mean()),
        )
        for structure, cell in chosen.items()
    ]


def best_rows(by_rate: xr.Dataset) -> list[xr.Dataset]:
    """Of what `best_decays` gives, the runs at the best learning rate of every structure that has one."""
    rows = [by_rate.sel(structure=name) for name in by_rate.structure.values]
    return [row.isel(learning_rate=row.score.argmax("learning_rate")) for row in rows if row.score.notnull().any()]


def gains(results: xr.Dataset) -> dict[str, list[Interval]] | None:
    """What is reported at the best decay minus that without decay, seed by seed, per structure and learning rate.

    None where the study has no site `none`; an interval of NaN where every cell of the row has a diverged run.
    """
    if "none" not in results.site.values:
        return None
    by_rate = best_decays(results)[results.attrs["reported"]].transpose("structure", "learning_rate", "seed")
    plain = by_rate.sel(structure="none")
    return {
        str(row.structure.values): [difference(*pair) for pair in zip(row.values, plain.values, strict=True)]
        for row in by_rate
        if row.structure != "none"
    }


def difference(values: np.ndarray, others: np.ndarray) -> Interval:
    """Seed by seed; NaN where both are infinite, as steps to a goal are that was never reached."""
    with np.errstate(invalid="ignore"):
        return interval(values - others)
