"""The figures and the page of a study: what is drawn is what its data says."""

import html.parser
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from optlab.lab import figures, report, results
from optlab.lab.derivations import Formulas, as_text
from optlab.lab.errors import StudyError
from optlab.lab.figures.style import looks, tick
from optlab.lab.results import ATTRIBUTES, AXES
from optlab.lab.study import Structure

SITES, RATES, DECAYS = ("none", "gradient", "update"), (1e-3, 1e-2, 1e-1), (0.01, 0.1, 1.0, 10.0)
LAYERS, STEPS, SEEDS = ("all", "hidden.kernel", "output.bias"), (10, 20, 30), 4
STUDENT = 3.182446305284263  # the 97.5% quantile of Student's t with three degrees of freedom


def made(task: str = "made up", **attrs: Any) -> xr.Dataset:
    """A study whose numbers are drawn at random, with two cells of which some and of which all runs diverged."""
    random = np.random.default_rng(0)
    shape = (len(SITES), 1, 1, len(RATES), len(DECAYS), SEEDS)
    validation = random.uniform(0.88, 0.9, shape[:-1])[..., None] + random.normal(0, 1e-3, shape)
    diverged = np.zeros(shape, bool)
    diverged[1, 0, 0, 2, 3], diverged[2, 0, 0, 2, 3, 1:3] = True, True
    values = {
        "validation_accuracy": validation,
        "test_accuracy": random.uniform(0.2, 0.9, shape),
        "train_loss": random.uniform(0.1, 1, shape),
        "weight_norm": random.uniform(1, 9, shape),
        "x": random.uniform(-1, 1, shape),
        "y": random.uniform(0, 1, shape),
        "diverged": diverged,
        "diverged_at": np.where(diverged, 5, -1),
        "trained": np.ones(shape, bool),
    }
    for value in values.values():
        value[0] = value[0, :, :, :, :1]
    measured = ("test_accuracy", "train_loss", "weight_norm", "x", "y")
    curves = {f"curve_{name}": values[name][..., None] * random.uniform(0.5, 1, (*shape, 3)) for name in measured}
    layered = {name: random.uniform(0, 1, (*shape, 3)) for name in ("decay_share", "decay_rate")}
    history = {f"curve_{name}": random.uniform(0, 1, (*shape, 3, 3)) for name in layered}
    variables = {name: (AXES, value) for name, value in values.items()}
    variables |= {name: ((*AXES, "step"), value) for name, value in curves.items()}
    variables |= {name: ((*AXES, "layer"), value) for name, value in layered.items()}
    variables |= {name: ((*AXES, "step", "layer"), value) for name, value in history.items()}
    coordinates = {"site": list(SITES), "coupling": ["natural"], "gate": ["none"], "learning_rate": list(RATES)}
    coordinates |= {"weight_decay": list(DECAYS), "seed": range(SEEDS), "step": list(STEPS), "layer": list(LAYERS)}
    said = dict.fromkeys(ATTRIBUTES, "said") | {"task": task, "steps": 30, "core": "adam()", "maximize": 1}
    said |= {"objective": "validation_accuracy", "reported": "test_accuracy"}
    said["equations"] = as_text(
        {
            site: Formulas(
                [f"w = {site}"], f"at <{site}>", "by λ", f"for {site}'s vectors", {"matrices": [f"w = {site} of them"]}
            )
            for site in SITES
        }
    )
    return xr.Dataset(variables, coordinates, said | attrs)


DATA = made()


def at(name: str, site: str) -> np.ndarray:
    """Over (learning_rate, weight_decay, seed, ...)."""
    return DATA[name].sel(site=site).values[0, 0]


def best(site: str) -> tuple[int, int]:
    """The place of the best cell, by a loop."""
    found, cell = -math.inf, (0, 0)
    for row in range(len(RATES)):
        for column in range(len(DECAYS)):
            mean = sum(at("validation_accuracy", site)[row, column]) / SEEDS
            if not at("diverged", site)[row, column].any() and mean > found:
                found, cell = mean, (row, column)
    return cell


def half_width(values: np.ndarray) -> np.ndarray:
    """Of Student's interval over the last axis."""
    squares = ((values - values.mean(-1, keepdims=True)) ** 2).sum(-1) / (SEEDS - 1)
    return STUDENT * np.sqrt(squares / SEEDS)


# The basin ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maximize", [1, 0])
def test_the_basin_is_relative_to_the_best_sound_cell_whichever_way_is_better(maximize: int) -> None:
    data = DATA.isel(weight_decay=slice(3)).copy(deep=True)
    sign = 1 if maximize else -1
    data.attrs["maximize"] = maximize
    data.validation_accuracy[2] = 2 * (1 - sign * 0.5)
    data.validation_accuracy[2, 0, 0, 0] = np.array([2, 2 - sign * 0.019, 2 - sign * 0.021])[:, None]
    data.validation_accuracy[2, 0, 0, 1, 0] = 2 + sign
    data.diverged[2, 0, 0, 1, 0, 0] = True
    near = results.near_best(data)
    assert near.dims == ("structure", "learning_rate", "weight_decay")
    assert near.dtype == bool
    assert near.sel(structure="update").values.tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert results.near_best(data, 0).sel(structure="update").sum() == 1
    data.validation_accuracy[0] = 0.5
    assert results.near_best(data).sel(structure="none").values.tolist() == [[True, False, False]] * 3


def test_the_basin_of_a_goal_that_is_hardly_ever_reached() -> None:
    data = DATA.copy(deep=True)
    data.attrs["maximize"] = 0
    data.validation_accuracy[1:] = np.inf
    data.validation_accuracy[2, 0, 0, 0, 1] = 100.0
    near = results.near_best(data)
    assert near.sel(structure="gradient").sum() == 11  # never reached is as good as never reached, but not as diverged
    assert near.sel(structure="update").values.nonzero() == ([0], [1])


# The maps -------------------------------------------------------------------------------------------------------------


def segments(panel: Any) -> set[tuple[float, ...]]:
    (edges,) = (artist for artist in panel.collections if isinstance(artist, LineCollection))
    return {tuple(np.ravel(segment)) for segment in edges.get_segments()}


def check_maps(figure: Figure) -> None:
    """Against everything that a map says."""
    means = {site: 100 * at("test_accuracy", site).mean(-1) for site in SITES}
    failed = {site: at("diverged", site).sum(-1) for site in SITES}
    sound = np.concatenate([means[site][failed[site] == 0] for site in SITES])
    colours = plt.get_cmap("viridis")
    panels = {panel.get_title(loc="left"): panel for panel in figure.axes if panel.get_title(loc="left")}
    assert tuple(panels) == SITES
    for number, (site, panel) in enumerate(panels.items()):
        cells = {patch.get_gid(): patch for patch in panel.patches if patch.get_gid()}
        columns = 1 if site == "none" else len(DECAYS)
        assert len(cells) == len(RATES) * columns
        inside = np.zeros((len(RATES) + 2, len(DECAYS) + 2), bool)
        for row in range(len(RATES)):
            for column in range(columns):
                patch = cells[f"cell-{number}-{row}-{column}"]
                assert patch.get_xy() == (column - 0.5, row - 0.5)
                assert (patch.get_hatch() is not None) == bool(failed[site][row, column])
                count = failed[site][row, column]
                text = {0: f"{means[site][row, column]:.0f}", SEEDS: ""}.get(count, f"{count}/{SEEDS}")
                assert text in [t.get_text() for t in panel.texts if t.get_position() == (column, row)]
                share = (means[site][row, column] - sound.min()) / (sound.max() - sound.min())
                if not count:
                    np.testing.assert_allclose(patch.get_facecolor(), colours(share), atol=0.01)
                objective = at("validation_accuracy", site).mean(-1)
                inside[row + 1, column + 1] = not count and objective[row, column] >= 0.99 * objective[best(site)]
        (outline,) = (patch for patch in panel.patches if not patch.get_gid())
        middle = outline.get_x() + outline.get_width() / 2, outline.get_y() + outline.get_height() / 2
        assert middle == pytest.approx(best(site)[::-1])
        expected = set()
        for y, x in np.argwhere(inside) - 1:
            left, right, low, high = x - 0.5, x + 0.5, y - 0.5, y + 0.5
            expected |= {(left, low, left, high)} if not inside[y + 1, x] else set()
            expected |= {(right, low, right, high)} if not inside[y + 1, x + 2] else set()
            expected |= {(left, low, right, low)} if not inside[y, x + 1] else set()
            expected |= {(left, high, right, high)} if not inside[y + 2, x + 1] else set()
        assert segments(panel) == expected
    assert (panels["none"].get_xlim(), panels["none"].get_xticks().tolist()) == (panels["update"].get_xlim(), [0])
    for panel in panels.values():  # half a cell around the first and the last
        assert panel.get_xlim() == (-0.5, len(DECAYS) - 0.5)
        assert panel.get_ylim() == (-0.5, len(RATES) - 0.5)
        assert [label.get_text() for label in panel.get_yticklabels()] == ["0.001", "0.01", "0.1"]
    assert [label.get_text() for label in panels["update"].get_xticklabels()] == ["0.01", "0.1", "1", "10"]


def panel_of(figure: Figure, site: str) -> Any:
    return next(panel for panel in figure.axes if panel.get_title(loc="left") == site)


def cell_of(figure: Figure, gid: str) -> Rectangle:
    return next(artist for artist in figure.findobj(Rectangle) if artist.get_gid() == gid)


def outline_elsewhere(figure: Figure) -> None:
    outline = next(patch for patch in panel_of(figure, "update").patches if not patch.get_gid())
    outline.set_x(outline.get_x() - 1)


def basin_of_every_cell(figure: Figure) -> None:
    panel = panel_of(figure, "gradient")
    (edges,) = (artist for artist in panel.collections if isinstance(artist, LineCollection))
    edges.set_segments([[(x - 0.5, y - 0.5), (x - 0.5, y + 0.5)] for x in range(5) for y in range(3)])


WRONG_MAPS: dict[str, Callable[[Figure], object]] = {
    "the outline is beside the best cell": outline_elsewhere,
    "the basin has inner edges": basin_of_every_cell,
    "a diverged cell looks sound": lambda figure: cell_of(figure, "cell-1-2-3").set_hatch(None),
    "a sound cell is hatched": lambda figure: cell_of(figure, "cell-1-0-0").set_hatch("////"),
    "a panel has its own scale": lambda figure: [
        cell_of(figure, f"cell-0-{row}-0").set_facecolor(to_rgba("white")) for row in range(3)
    ],
    "cells have changed places": lambda figure: cell_of(figure, "cell-2-0-1").set_gid("cell-2-1-0"),
}


def test_maps_say_what_the_data_says() -> None:
    check_maps(figures.maps(DATA))


@pytest.mark.parametrize("wrong", WRONG_MAPS)
def test_a_wrong_map_would_be_seen(wrong: str) -> None:
    figure = figures.maps(DATA)
    WRONG_MAPS[wrong](figure)
    with pytest.raises((AssertionError, KeyError)):
        check_maps(figure)


def test_ticks_are_short_and_no_other_numbers() -> None:
    numbers = (0.0, 3.0, 0.25, 1e-3, 2.5e-4, 1e-5, 1.25e-10, 3e-12)
    assert [tick(number) for number in numbers] == ["0", "3", "0.25", "0.001", "2.5e-4", "1e-5", "1.25e-10", "3e-12"]


def test_a_loss_over_decades_has_a_logarithmic_scale_on_which_small_is_bright() -> None:
    data = DATA.assign(test_loss=10 ** (8 * DATA.test_accuracy)).assign_attrs(reported="test_loss", maximize=0)
    figure = figures.maps(data)
    means = np.log(data.test_loss.where(~data.diverged).mean("seed", skipna=False).values[1, 0, 0])
    lowest, highest = (
        np.unravel_index(np.nanargmin(means), means.shape),
        np.unravel_index(np.nanargmax(means), means.shape),
    )
    light = [sum(cell_of(figure, f"cell-1-{row}-{column}").get_facecolor()[:3]) for row, column in (lowest, highest)]
    assert light[0] > light[1]
    bar = next(panel for panel in figure.axes if "test loss" in panel.get_xlabel())
    assert bar.get_xscale() == "log"


# Lines and points -----------------------------------------------------------------------------------------------------


def drawn_bands(panel: Any) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By label: the mean, and the lower and the upper edge of its band."""
    lines = [line for line in panel.lines if not str(line.get_label()).startswith(("_", "rate"))]
    bands = [artist for artist in panel.collections if isinstance(artist, PolyCollection)]
    found = {}
    for line, band in zip(lines, bands, strict=True):
        points = band.get_paths()[0].vertices
        edges = [[edge(points[points[:, 0] == step][:, 1]) for step in STEPS] for edge in (np.min, np.max)]
        found[str(line.get_label())] = (np.asarray(line.get_ydata()), *map(np.array, edges))
    return found


def check_bands(panel: Any, values: dict[str, np.ndarray]) -> None:
    """Against `values` over (seed, step) by structure."""
    found = drawn_bands(panel)
    assert list(found) == list(values)
    for site, runs in values.items():
        mean, low, high = found[site]
        np.testing.assert_allclose(mean, runs.mean(0), rtol=1e-6)
        np.testing.assert_allclose(low, mean - half_width(runs.T), rtol=1e-6)
        np.testing.assert_allclose(high, mean + half_width(runs.T), rtol=1e-6)


def test_curves_have_bands_of_student_s_interval() -> None:
    figure = figures.curves(DATA)
    assert figure is not None
    accuracy, norm = figure.axes
    check_bands(accuracy, {site: 100 * at("curve_test_accuracy", site)[best(site)] for site in SITES})
    check_bands(norm, {site: at("curve_weight_norm", site)[best(site)] for site in SITES})
    with pytest.raises(AssertionError):
        check_bands(norm, {site: at("curve_weight_norm", site)[0, 0] for site in SITES})
    assert figures.curves(DATA.isel(step=[2])) is None
    assert figures.curves(DATA.assign(diverged=DATA.diverged | True)) is None


def test_effective_decay_by_layer_beside_what_was_asked_for() -> None:
    figure = figures.effective_decay(DATA)
    assert figure is not None
    decayed = SITES[1:]
    for panel, (measure, layer) in zip(
        figure.axes, [(m, n) for m in ("share", "rate") for n in range(len(LAYERS))], strict=True
    ):
        assert panel.get_title() == LAYERS[layer]
        check_bands(panel, {site: at(f"curve_decay_{measure}", site)[(*best(site), ..., layer)] for site in decayed})
        asked = [line.get_ydata()[0] for line in panel.lines if str(line.get_label()).startswith("rate")]
        row, column = best("update")
        assert asked == ([pytest.approx(RATES[row] * DECAYS[column])] if measure == "rate" else [])
    chosen = figures.effective_decay(DATA, layers=["output.bias"])
    assert chosen is not None
    assert [panel.get_title() for panel in chosen.axes] == ["output.bias"] * 2
    assert figures.effective_decay(DATA.drop_vars("curve_decay_rate")) is None
    assert figures.effective_decay(DATA.sel(site=["none"])) is None


@pytest.mark.parametrize("strength", ["weight_norm", "decay_share"])
def test_at_equal_strength_every_sound_decay_is_a_point_with_both_intervals(strength: str) -> None:
    figure = figures.at_equal_strength(DATA, strength)
    assert figure is not None
    whole, near = figure.axes
    for panel in (whole, near):
        said = {"weight_norm": "weight norm", "decay_share": "decay share"}[strength]
        assert (panel.get_xlabel(), panel.get_ylabel()) == (said, "test accuracy (%)")
    for container, site in zip(whole.containers, SITES, strict=True):
        row = best(site)[0]
        sound = ~at("diverged", site)[row].any(-1)
        sound[1:] &= site != "none"
        x = at(strength, site)[row][sound]
        x, y = x if strength == "weight_norm" else x[..., 0], 100 * at("test_accuracy", site)[row][sound]
        line, _, bars = container
        np.testing.assert_allclose(line.get_xydata(), np.stack([x.mean(-1), y.mean(-1)], 1), rtol=1e-6)
        across, along = (np.array(bar.get_segments()) for bar in bars)
        np.testing.assert_allclose(np.diff(across[..., 0]).ravel() / 2, half_width(x), rtol=1e-5)
        np.testing.assert_allclose(np.diff(along[..., 1]).ravel() / 2, half_width(y), rtol=1e-5)
    assert [len(container[0].get_xdata()) for container in near.containers] == [1, 4, 4]
    assert figures.at_equal_strength(DATA, "no such thing") is None


def test_gains_are_paired_differences() -> None:
    figure = figures.gain_curves(DATA)
    assert figure is not None
    gains = results.gains(DATA)
    assert gains is not None
    for container in figure.axes[0].containers:
        means = [100 * interval.mean for interval in gains[container.get_label()]]
        np.testing.assert_allclose(container[0].get_ydata(), means)
    assert figures.gain_curves(DATA.sel(site=["update"])) is None
    assert figures.gain_curves(DATA.sel(site=["none"])) is None


# Landscapes and averages ----------------------------------------------------------------------------------------------


@pytest.fixture
def _lenient():
    """Flax is not written for strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("_lenient")
def test_trajectories_go_from_the_start_of_their_seed_to_their_end() -> None:
    data = made("rosenbrock")
    figure = figures.trajectories(data, seed=2)
    assert figure is not None
    (panel,) = figure.axes
    lines = {str(line.get_label()): line.get_xydata() for line in panel.lines}
    assert list(lines) == [*SITES, "start", "minimum"]
    assert lines["minimum"].tolist() == [[1, 1]]
    assert lines["start"][0] == pytest.approx([-1.2, 1], abs=0.4)
    for site in SITES:
        np.testing.assert_array_equal(lines[site][0], lines["start"][0])
        path = [at(f"curve_{axis}", site)[(*best(site), 2)] for axis in "xy"]
        np.testing.assert_allclose(lines[site][1:], np.stack(path, 1))
    assert panel.get_title() == "rosenbrock, seed 2, each structure's best cell"
    contours = panel.collections[0]
    assert max(contours.get_linewidths()) < min(
        line.get_linewidth() for line in panel.lines if line.get_label() in SITES
    )
    other = figures.trajectories(data)
    assert other is not None
    assert not np.array_equal(other.axes[0].lines[-2].get_xydata(), lines["start"])

    chosen = figures.trajectories(data, learning_rate=0.1, weight_decay=10.0)
    assert chosen is not None
    assert [line.get_label() for line in chosen.axes[0].lines] == ["none", "start", "minimum"]
    assert chosen.axes[0].get_title() == "rosenbrock, learning rate 0.1, weight decay 10, seed 0"
    with pytest.raises(StudyError, match=r"the study has no weight_decay 3; it has 0\.01, 0\.1, 1, 10$"):
        figures.trajectories(data, weight_decay=3.0)
    assert figures.trajectories(DATA) is None


@pytest.mark.usefixtures("_lenient")
def test_a_landscape_is_drawn_around_its_paths_as_far_as_they_are_near() -> None:
    near = made("rosenbrock")
    for data, is_far in ((near, False), (near.assign(curve_x=1e6 * near.curve_x), True)):
        figure = figures.trajectories(data)
        assert figure is not None
        (panel,) = figure.axes
        low, high = np.transpose([panel.get_xlim(), panel.get_ylim()])
        for line in panel.lines:
            points = line.get_xydata() if line.get_label() not in SITES or not is_far else line.get_xydata()[:1]
            assert (low < points).all()
            assert (points < high).all()
        assert (high - low).max() < 10


def test_averages_are_those_of_a_loop_and_the_correction_lifts_the_first_steps() -> None:
    data = figures.averages_data((0.9, 0.98), steps=40, seed=1)
    for decay in (0.9, 0.98):
        m, sums = 0.0, 0.0
        for step, value in enumerate(data.signal.values.astype(float)):
            m, sums = decay * m + (1 - decay) * value, decay * sums + 1 - decay
            assert data.raw.sel(decay=decay)[step] == pytest.approx(m, rel=1e-5)
            assert data.corrected.sel(decay=decay)[step] == pytest.approx(m / sums, rel=1e-5)
    assert not data.signal.equals(figures.averages_data(steps=40, seed=2).signal)
    figure = figures.averages(data)
    assert [panel.get_title() for panel in figure.axes] == [
        f"decay {decay}{which}" for decay in (0.9, 0.98) for which in ("", ", the first steps")
    ]
    for number, panel in enumerate(figure.axes):
        lines = {str(line.get_label()): line.get_ydata() for line in panel.lines}
        for label, name in (("average, raw", "raw"), ("average, corrected", "corrected")):
            expected = data[name][number // 2, : 30 if number % 2 else 40]
            np.testing.assert_array_equal(lines[label], expected)


# All of them ----------------------------------------------------------------------------------------------------------


def test_a_structure_looks_the_same_everywhere_and_like_no_other() -> None:
    for figure in (figures.curves(DATA), figures.effective_decay(DATA), figures.gain_curves(DATA)):
        assert figure is not None
        for panel in figure.axes:
            for line in panel.lines + [container[0] for container in panel.containers]:
                look = looks(DATA).get(str(line.get_label()))
                assert look is None or (line.get_color(), line.get_marker()) == (look["color"], look["marker"])
    couplings = ["natural", "constant", "schedule", "lr"]
    look = looks(xr.concat([DATA] * 4, "coupling").assign_coords(coupling=couplings))
    assert len(look) == 9
    assert str(Structure("update", "constant")) in look
    assert len({(entry["color"], entry["linestyle"]) for entry in look.values()}) == 9


@pytest.mark.parametrize("name", [name for name in report.FIGURES if name != "trajectories"])
def test_figures_are_laid_out_for_a_phone_and_left_to_no_one_to_close(name: str) -> None:
    figure = report.FIGURES[name](DATA, width=report.NARROW)
    assert figure is not None
    assert plt.get_fignums() == []
    figure.draw_without_rendering()
    whole = figure.get_window_extent()
    tight = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert tight.x0 >= whole.x0 - 1
    assert tight.x1 <= whole.x1 + 1
    wide = report.FIGURES[name](DATA)
    assert wide is not None
    assert wide.get_figwidth() > 2 * figure.get_figwidth()


# The page -------------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The identifiers of a page, what it loads, and the texts of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.labels: dict[str, str] = {}
        self.titles: dict[str, str] = {}
        self.cell = ""
        self.in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.loads += [
            value for name, value in given.items() if name in ("src", "href", "xlink:href", "srcset", "data")
        ]
        if given.get("class") == "cell":
            self.cell = given["id"]
            self.labels[self.cell] = given["aria-label"]
        self.in_title = tag == "title"

    def handle_data(self, data: str) -> None:
        if self.in_title and self.cell:
            self.titles[self.cell] = data

    def handle_endtag(self, tag: str) -> None:
        self.in_title = False


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("page")
    written = report.render(DATA, folder)
    assert written == [name for name in report.file_names()[1:] if not name.startswith("trajectories")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(written)
    return (folder / "report.html").read_text()


def test_the_page_loads_nothing_and_its_identifiers_are_unique(page: str) -> None:
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    held = {f"#{name}" for name in found.ids}
    assert [load for load in found.loads if load not in held and not load.startswith("data:image/png;base64,")] == []
    assert set(re.findall(r"https?://[^\"'\s<)]+", page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert "@import" not in page


def test_every_cell_says_its_numbers_to_the_eye_and_to_a_reader(page: str) -> None:
    found = Page(page)
    assert found.labels == found.titles
    expected = {}
    for number, site in enumerate(SITES):
        for row, rate in enumerate(RATES):
            for column, decay in enumerate(DECAYS if site != "none" else DECAYS[:1]):
                failed = int(at("diverged", site)[row, column].sum())
                lines = [site, f"learning rate {rate:g}", *([f"weight decay {decay:g}"] if site != "none" else [])]
                if not failed:
                    accuracy, norm = 100 * at("test_accuracy", site)[row, column], at("weight_norm", site)[row, column]
                    share = at("decay_share", site)[row, column, :, 0]
                    lines += [
                        f"test accuracy (%) {accuracy.mean():.1f} ± {half_width(accuracy):.1f}",
                        f"weight norm {norm.mean():.4g} ± {half_width(norm):.2g}",
                        f"decay share {share.mean():.4g} ± {half_width(share):.2g}",
                    ]
                for look in ("wide", "narrow"):
                    expected[f"maps-{look}-cell-{number}-{row}-{column}"] = "\n".join(
                        [*lines, f"diverged {failed}/{SEEDS}"]
                    )
    assert found.labels == expected


def test_the_page_has_every_figure_twice_and_every_equation_once(page: str) -> None:
    for name in report.FIGURES:
        drawn = name != "trajectories"
        assert len(re.findall(rf'<figure class="{name}">', page)) == drawn
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') == len(report.FIGURES) - 1
    for site in SITES:
        assert page.count(f"<pre>w = {site}</pre>") == 1
        assert page.count(f"<p>For {site}&#39;s vectors.</p>") == 1
        assert page.count(f"<p>Matrices go another way:</p>\n<pre>w = {site} of them</pre>") == 1
        assert f"at &lt;{site}&gt;" in page
