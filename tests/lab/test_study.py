"""The lab: a study's numbers, its folder, and what the command line says to bad input."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import xarray as xr

import optlab
from optlab import cli
from optlab.lab import report, results
from optlab.lab.derivations import Formulas, as_text, formulas
from optlab.lab.engine import run
from optlab.lab.errors import StudyError
from optlab.lab.one_run import NEVER, start
from optlab.lab.results import AXES
from optlab.lab.study import Study
from optlab.lab.tasks import digits

pytestmark = pytest.mark.xdist_group("study")

RATES, DECAYS = (1e-3, 1e-2), (1e-2, 1.0, 10.0)
SITES = ("none", "gradient", "direction", "update", "step")
SMALL = Study(sites=SITES, learning_rates=RATES, weight_decays=DECAYS, seeds=2, steps=40, every=20)


@pytest.fixture(scope="module", autouse=True)
def _lenient():
    """Flax and optax are not written for strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def small() -> xr.Dataset:
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(1, 64, patch.setattr)
        data = run(SMALL)
    data.attrs["command"] = "optlab study decay"
    return data


def test_axes_and_variables(small: xr.Dataset) -> None:
    assert small.test_accuracy.dims == AXES
    assert small.test_accuracy.shape == (5, 1, 1, 2, 3, 2)
    assert small.curve_test_accuracy.dims == (*AXES, "step")
    assert list(small.step.values) == [20, 40]
    assert set(results.VARIABLES) <= set(small.data_vars)
    assert list(small.site.values) == list(SITES)


def by_hand(site: str, learning_rate: float, weight_decay: float, seed: int) -> dict[str, float]:
    """One run of the grid, one jitted step after the other, outside of scan and vmap."""
    task = digits(steps=40)
    tx = optlab.Decay(site).apply_to(SMALL.make_core(), learning_rate, weight_decay)
    data, params, batch_key = start(task, seed)
    state = tx.init(params)

    @jax.jit
    def step(params, state, number):
        grads = jax.grad(task.loss)(params, task.batch(data, batch_key, number))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for number in range(40):
        params, state = step(params, state, jnp.int32(number))
    return {name: float(value) for name, value in task.metrics(params, data).items()}


@pytest.mark.parametrize("site", ["gradient", "update", "step"])
def test_a_cell_of_the_mapped_grid_is_the_run_by_hand(small: xr.Dataset, site: str) -> None:
    cell = small.sel(site=site, learning_rate=1e-2, weight_decay=1e-2, seed=1).squeeze(drop=True)
    for name, value in by_hand(site, 1e-2, 1e-2, 1).items():
        np.testing.assert_allclose(cell[name], value, rtol=2e-3, err_msg=name)
        np.testing.assert_array_equal(cell[f"curve_{name}"][-1], cell[name])


def test_sites_part_and_the_seed_is_shared(small: xr.Dataset) -> None:
    losses = small.train_loss.sel(learning_rate=1e-2, weight_decay=1.0, seed=0)
    assert len(set(np.round(losses.values[np.isfinite(losses)], 4))) >= 4
    none = small.sel(site="none")
    assert (none.train_loss == none.train_loss.isel(weight_decay=0)).all()


def test_divergence_is_recorded(small: xr.Dataset) -> None:
    wild = small.sel(site="direction", weight_decay=10.0)
    assert wild.diverged.all()
    assert ((wild.diverged_at > 0) & (wild.diverged_at < 40)).all()
    assert not small.sel(site="none").diverged.any()
    assert (small.sel(site="none").diverged_at == NEVER).all()


def test_digits_draws_the_share_of_wrong_labels_it_states() -> None:
    task = digits()
    images, labels = digits.__globals__["all_images"]()
    clean = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    wrong = []
    for seed in range(10):
        split = task.data(jax.random.key(seed))
        assert [len(part[1]) for part in split] == [300, 497, 1000]
        names = [np.asarray(image).tobytes() for image in split.train[0]]
        wrong.append(np.mean([clean[name] != label for name, label in zip(names, split.train[1], strict=True)]))
        test_names = {np.asarray(image).tobytes() for image in split.test[0]}
        assert not test_names & set(names)
        assert all(clean[np.asarray(image).tobytes()] == label for image, label in zip(*split.test, strict=True))
    assert 0.17 < np.mean(wrong) < 0.23


# What the grid says ---------------------------------------------------------------------------------------------------


def made_up(accuracy: np.ndarray, diverged: np.ndarray | None = None) -> xr.Dataset:
    """A dataset whose accuracies are given, over sites none and update."""
    diverged = np.zeros(accuracy.shape, bool) if diverged is None else diverged
    accuracy, diverged = accuracy[:, None, None], diverged[:, None, None]
    named = ("test_accuracy", "validation_accuracy", "train_loss", "weight_norm")
    values = dict.fromkeys(named, (AXES, accuracy)) | {"trained": (AXES, np.ones_like(diverged))}
    values |= {"diverged": (AXES, diverged), "diverged_at": (AXES, np.where(diverged, 1, NEVER))}
    coordinates = {"site": ["none", "update"], "coupling": ["natural"], "gate": ["none"]}
    coordinates |= {"learning_rate": [0.1, 1.0], "weight_decay": [0.0, 1.0], "seed": [0, 1, 2]}
    attrs = dict.fromkeys(results.ATTRIBUTES, "said") | {"task": "made up", "steps": 1, "core": "adam()", "maximize": 1}
    attrs |= {"objective": "validation_accuracy", "reported": "test_accuracy"}
    attrs |= {"equations": as_text(formulas(Study(sites=("none", "update")), scheduled=False))}
    return xr.Dataset(values, coordinates, attrs)


def test_best_cell_is_chosen_among_sound_cells_and_compared_in_pairs() -> None:
    accuracy = np.full((2, 2, 2, 3), 0.5)
    accuracy[0] = [0.6, 0.7, 0.8]
    accuracy[1, 0, 1] = [0.7, 0.8, 0.9]
    accuracy[1, 1, 1] = 0.99
    diverged = np.zeros(accuracy.shape, bool)
    diverged[1, 1, 1, 2] = True
    none, update = results.best_cells(made_up(accuracy, diverged))
    assert (update.learning_rate, update.weight_decay) == (0.1, 1.0)
    assert update.reported.mean == pytest.approx(0.8)
    assert update.reported.half_width == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
    assert update.against_none is not None
    assert update.against_none.mean == pytest.approx(0.1)
    assert update.against_none.half_width == pytest.approx(0.0, abs=1e-12)
    assert update.diverged_share == pytest.approx(1 / 12)
    assert none.against_none is None


def test_a_site_without_a_sound_cell_has_no_best_and_no_gain() -> None:
    diverged = np.zeros((2, 2, 2, 3), bool)
    diverged[1, ..., 0] = True
    data = made_up(np.full((2, 2, 2, 3), 0.5), diverged)
    assert [cell.structure for cell in results.best_cells(data)] == ["none"]
    curve = results.gains(data)
    assert curve is not None
    assert np.isnan([interval.mean for interval in curve["update"]]).all()
    assert "every run stayed finite: update" in report.page(data, {"maps": b"<svg/>"})


# The folder and the command line --------------------------------------------------------------------------------------


@pytest.fixture
def folder(small: xr.Dataset, tmp_path: Path) -> Path:
    out = tmp_path / "a study"
    report.prepare(out, overwrite=False)
    report.write(small, out)
    return out


def test_the_page_needs_nothing_else(folder: Path, small: xr.Dataset) -> None:
    drawn = {"maps", "gains", "curves", "equal_norm"}
    assert {path.name for path in folder.iterdir()} == {
        name for name in report.file_names() if name.partition(".")[0] in drawn | {"results", "report"}
    }
    xr.testing.assert_identical(results.load(folder / "results.nc"), small)
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2 * len(drawn)
    for said in (small.attrs["versions"], small.attrs["device"], "optlab study decay", "Where the weight decay acts"):
        assert said in page
    for found in formulas(SMALL, scheduled=False).values():
        assert "\n".join(found.equations) in page
        assert found.coupling in page
        assert f"H{found.holds.removeprefix('h')}." in page


def test_the_page_says_which_leaves_its_equations_hold_for() -> None:
    checked = Formulas(["w = 1"], "update", "κ", "holds for vectors (3,)", {"matrices (4, 3)": ["w = 2", "v = 3"]})
    told = {"none": checked._replace(holds="", elsewhere={}), "update": checked}
    data = made_up(np.full((2, 2, 2, 3), 0.5)).assign_attrs(equations=as_text(told))
    none, update = report.page(data, {"maps": b"<svg/>"}).split('class="equations"')[1:]
    assert "Read off a vector; for leaves of other shapes it was not checked." in none
    assert "Holds for vectors (3,)." in update
    assert re.search(r"Matrices \(4, 3\) go another way:</p>\s*<pre>w = 2\nv = 3</pre>", update)


def test_one_seed_is_said_to_have_no_intervals() -> None:
    data = made_up(np.full((2, 2, 2, 3), 0.5))
    many, one = (report.page(each, {"maps": b"<svg/>"}) for each in (data, data.isel(seed=[0])))
    assert "95% confidence interval over the seeds" in many
    assert "One seed has no" not in many
    assert "confidence interval over the seeds" not in one
    assert "One seed has no\nintervals" in one
    assert "seed 0</dd>" in one
    assert "50.0 ± ?" in one


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    whole = [sys.executable, "-m", "optlab", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, env=environment, check=False)


GRID = ("--sites", "none,update", "--learning-rates", "1e-3", "--weight-decays", "0.1,1", "--seeds", "2")
TINY = ("study", "decay", *GRID)


def test_study_report_and_overwriting_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out put"
    asked = (*TINY, "--steps", "5", "--output", str(out))
    done = command(*asked)
    assert done.returncode == 0, done.stderr
    assert "update" in done.stdout
    first = (out / "results.nc").read_bytes()
    assert results.load(out / "results.nc").attrs["steps"] == 5

    again = command(*asked)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"optlab study: {out} already holds results.nc; give --overwrite, or another --output\n"
    assert (out / "results.nc").read_bytes() == first

    (out / "maps.png").unlink()
    redrawn = command("report", str(out), "--output", str(out / "again"))
    assert redrawn.returncode == 0, redrawn.stderr
    assert (out / "again" / "maps.png").is_file()
    redrawn = command("report", str(out), "--overwrite")
    assert redrawn.returncode == 0, redrawn.stderr
    assert (out / "maps.png").is_file()


BAD_INPUT = {
    "unknown site": (
        ("study", "decay", "--sites", "update,elsewhere"),
        "unknown site 'elsewhere'; known are none, loss, grad",
    ),
    "unknown study": (
        ("study", "decline"),
        "unknown study 'decline'; known are decay; or give the path of a .toml file",
    ),
    "no number": (
        ("study", "decay", "--learning-rates", "1e-3,fast"),
        "argument --learning-rates: '1e-3,fast' is not a list of numbers",
    ),
    "negative rate": (("study", "decay", "--learning-rates=-1"), "learning_rates must be finite and >= 0, got -1.0"),
    "not a number": (("study", "decay", "--weight-decays", "nan"), "weight_decays must be finite and >= 0, got nan"),
    "value twice": (("study", "decay", "--weight-decays", "1,1"), "weight_decays holds a value twice"),
    "no seeds": (("study", "decay", "--seeds", "0"), "seeds must be a whole number from 1, got 0"),
    "no steps": (("study", "decay", "--steps", "0"), "steps must be a whole number from 1, got 0"),
    "no such results": (("report", "{tmp}/nothing"), "nothing is not a file"),
    "results that are none": (("report", "{tmp}/text.nc"), "text.nc is not a netCDF file"),
    "another dataset": (
        ("report", "{tmp}/other.nc"),
        "other.nc holds no study: it lacks site, coupling, gate, learning",
    ),
    "folder is a file": (("study", "decay", "--output", "{tmp}/text.nc"), "text.nc/unfinished can't be written"),
    "bench into nowhere": (("bench", "--json", "{tmp}/no/where.json"), "where.json can't be written"),
    "bench into a folder": (("bench", "--json", "{tmp}"), "can't be written: Is a directory"),
    "folder of no name": (("study", "decay", "--output", ""), "the name of a folder is empty"),
    "name too long": (("study", "decay", "--output", "{tmp}/" + 300 * "x"), "can't be written: File name too long"),
    "a study cut down": (("report", "{tmp}/cut.nc"), "cut.nc holds no whole study: its variables must have the axes"),
    "a study without seeds": (("report", "{tmp}/seedless.nc"), "seedless.nc holds no run: its axis seed is empty"),
    "a study without decays": (("report", "{tmp}/decayless.nc"), "holds no run: its axis weight_decay is empty"),
    "a study without a trained run": (("report", "{tmp}/untrained.nc"), "holds no run: none was trained"),
    "equations that are none": (("report", "{tmp}/garbled.nc"), "garbled.nc holds no equations as optlab writes them"),
    "a structure without equations": (
        ("report", "{tmp}/untold.nc"),
        "untold.nc does not say what none, update computes",
    ),
    "a study of nothing known": (
        ("report", "{tmp}/bare.nc"),
        "bare.nc does not say how it was run: it lacks task, description",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_status_2(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.nc").write_text("not netCDF")
    xr.Dataset({"x": ("y", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    data = made_up(np.full((2, 2, 2, 3), 0.5))
    data.isel(seed=0).to_netcdf(tmp_path / "cut.nc", engine="h5netcdf")
    data.drop_attrs().to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    data.isel(seed=slice(0)).to_netcdf(tmp_path / "seedless.nc", engine="h5netcdf")
    data.isel(weight_decay=slice(0)).to_netcdf(tmp_path / "decayless.nc", engine="h5netcdf")
    data.assign(trained=~data.trained).to_netcdf(tmp_path / "untrained.nc", engine="h5netcdf")
    data.assign_attrs(equations="w - g").to_netcdf(tmp_path / "garbled.nc", engine="h5netcdf")
    data.assign_attrs(equations="{}").to_netcdf(tmp_path / "untold.nc", engine="h5netcdf")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments, message = BAD_INPUT[case]
    status = cli.main([argument.format(tmp=tmp_path) for argument in arguments])
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("optlab")
    assert message in printed.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_study_without_none_removes_the_figures_of_the_one_before(folder: Path, small: xr.Dataset) -> None:
    report.write(small.sel(site=["update"], step=[40]), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("equal_norm.png", "equal_norm.svg", "maps.png", "maps.svg", "report.html", "results.nc")
    ]


def test_a_study_keeps_its_hands_off_what_is_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    report.prepare(tmp_path, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "report.html").write_text("older")
    with pytest.raises(StudyError, match=r"already holds report\.html"):
        report.prepare(tmp_path, overwrite=False)


@pytest.mark.parametrize("delay", [0.0, 1.0, 3.0])
def test_ctrl_c_stops_with_one_line_and_writes_nothing(tmp_path: Path, delay: float) -> None:
    out = tmp_path / "out"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    arguments = [sys.executable, "-m", "optlab", *TINY, "--steps", "200000", "--output", str(out)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as study:
        while not out.is_dir():
            time.sleep(0.05)
        time.sleep(delay)
        study.send_signal(signal.SIGINT)
        _, error = study.communicate(timeout=10)
    assert study.returncode == 130
    assert error.strip() == "optlab: stopped; no file is half written"
    kept = ("", "/study.json", "/lock", "/writer.json")  # whose study this is, and whose it was
    assert {path.relative_to(out).as_posix() for path in out.rglob("*")} <= {f"unfinished{name}" for name in kept}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    assert cli.main(["study", "decay"]) == 2
    assert "needs xarray: pip install 'optlab[lab]'" in capsys.readouterr().err
