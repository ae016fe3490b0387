"""The pages say what the data of the studies says, and can't say what it does not."""

import importlib.util
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from optlab.lab import figures, read, results

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.toml"))

spec = importlib.util.spec_from_file_location("answers", FOLDER / "answers.py")
assert spec is not None
assert spec.loader is not None
answers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(answers)


_NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])|(?<![\w.])\d+e[-+]?\d+\b")


def say_the_same(page, other):
    """Word for word; a number with a point may be the next one in its third digit, which other versions of NumPy and
    SciPy, or another processor, round to the other side."""
    if _NUMBER.sub("#", page) != _NUMBER.sub("#", other):
        return False
    ours, theirs = (np.array([float(number) for number in _NUMBER.findall(text)]) for text in (page, other))
    sizes = np.maximum(np.abs(ours), np.finfo(float).tiny)
    return bool(np.all(np.abs(ours - theirs) <= 1.01 * 10 ** (np.floor(np.log10(sizes)) - 2)))


def test_a_page_may_differ_in_the_last_digit_alone():
    said = "| `lr` | (1.1 to 6.6), b = 1.88e-06 | 57% | 15 |"
    assert say_the_same(said, said)
    assert say_the_same(said, said.replace("6.6", "6.59"))
    assert say_the_same(said, said.replace("1.88", "1.89"))
    for wrong in ("6.6", "6.57"), ("1.88e-06", "1.90e-06"), ("1.88e-06", "1.88e-05"), ("57%", "58%"), ("15", "16"):
        assert not say_the_same(said, said.replace(*wrong))
    assert not say_the_same(said, said.replace("to", "up to"))


def test_the_pages_say_what_the_data_says():
    written = [ask() for ask in answers.QUESTIONS]
    assert len(written) == 7
    assert say_the_same((FOLDER / "README.md").read_text(), answers.page(written))
    readme, findings = (ROOT / "README.md").read_text(), answers.findings(written)
    listed = readme[readme.index(findings[:20]) :].splitlines()[: len(findings.splitlines())]
    assert say_the_same("\n".join(listed), findings)
    assert all((FOLDER / f"{answer.name}.png").is_file() for answer in written)
    used = {name for answer in written for name in answer.studies}
    assert used | {"layers"} == set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_the_data_is_of_the_study_beside_it(name):
    asked, data = read(FOLDER / f"{name}.toml"), answers.study(name)
    assert asked.seeds == data.sizes["seed"] >= 5
    assert list(asked.sites) == data.site.values.tolist()
    assert list(asked.learning_rates) == data.learning_rate.values.tolist()
    assert list(asked.weight_decays) == data.weight_decay.values.tolist()
    assert asked.make_task().steps == data.attrs["steps"]
    assert asked.core_text() == data.attrs["core"]
    command = data.attrs["command"]
    assert command.startswith(f"optlab study examples/studies/{name}.toml")
    assert "/" not in command.replace(f"examples/studies/{name}.toml", "")
    assert f"examples/studies/{name}.toml" in (FOLDER / f"{name}.toml").read_text().splitlines()[0]
    assert tomllib.loads((FOLDER / f"{name}.toml").read_text())


@pytest.mark.parametrize("name", STUDIES)
def test_figures_can_be_drawn_of_data_without_curves(name):
    assert (figures.curves(answers.study(name)) is None) == (name != "layers")


def test_the_data_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.nc")) < 5e6


SWAPPED = {
    "always_better": ("sites", "site", {"gradient": "none", "none": "gradient"}),
    "beside_momentum": ("momentum_eps", "site", {"direction": "none", "none": "direction"}),
    "which_half": ("sites", "site", {"second_moment": "none", "none": "second_moment"}),
    "coupling": ("coupling", "learning_rate", {3e-3: 1e-1, 1e-2: 3e-2, 3e-2: 1e-2, 1e-1: 3e-3}),
    "variants": ("variants", "learning_rate", {1e-3: 3e-2, 3e-2: 1e-3}),
    "grokking": ("grok_l2", "weight_decay", {1e-5: 1e-3, 1e-3: 1e-5}),
    "order": ("order", "site", {"update": "after", "after": "update"}),
}


@pytest.mark.parametrize("question", SWAPPED)
def test_other_data_would_not_be_given_the_same_verdict(question, monkeypatch):
    name, axis, taken = SWAPPED[question]
    study = answers.study
    data = study(name)
    order = [taken.get(value, value) for value in data[axis].values.tolist()]
    swapped = data.sel({axis: order}).assign_coords({axis: data[axis]})
    monkeypatch.setattr(answers, "study", lambda asked: swapped if asked == name else study(asked))
    with pytest.raises(ValueError, match="the data does not say: "):
        getattr(answers, question)()


def half_width(values):
    return stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))


def test_numbers_of_the_page_by_another_way():
    """Straight from the arrays: the best cells of two sites, a difference in one cell, a delay that decay saves."""
    page = (FOLDER / "README.md").read_text()
    arrays = {name: xr.open_dataset(FOLDER / name / "results.nc") for name in ("sites", "order", "grok_l2")}
    best = {}
    for site in ("update", "gradient"):
        own = arrays["sites"].sel(site=site, coupling="natural", gate="none")
        chosen = own.validation_accuracy.values.mean(-1).argmax()
        assert not own.diverged.values.reshape(-1, 10)[chosen].any()
        best[site] = 100 * own.test_accuracy.values.reshape(-1, 10)[chosen]
    apart = best["update"] - best["gradient"]
    assert f"differ by {apart.mean():+.1f} ± {half_width(apart):.1f} points on digits" in page
    cells = arrays["order"].test_accuracy.squeeze(["coupling", "gate"]).sel(learning_rate=0.1, weight_decay=10)
    apart = 100 * (cells.sel(site="after") - cells.sel(site="update")).values
    assert f"{apart.mean():+.1f} ± {half_width(apart):.1f} points ahead" in page
    steps = arrays["grok_l2"].test_steps_to_95.squeeze(["site", "coupling", "gate"]).sel(learning_rate=3e-3)
    saved = ((steps.sel(weight_decay=1e-5) - steps.sel(weight_decay=1e-3)) / 2).values
    assert f"| 0.98 | {2 * np.log(10) / -np.log(0.98):.0f} | {saved.mean():.0f} ± {half_width(saved):.0f} |" in page


def test_a_difference_counts_when_its_interval_leaves_out_zero():
    noise = results.interval(np.array([-1.0, 1.0, 0.5]))
    assert not answers.differs(noise)
    assert answers.differs(results.interval(np.array([1.0, 1.1, 0.9])))
    assert re.fullmatch(r"\+16\.7 ± \d+\.\d", answers.points(noise))
