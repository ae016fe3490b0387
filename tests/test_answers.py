"""The pages say what the data of the studies says, and can't say what it does not."""

import importlib.util
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from optlab.lab import read, results

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.toml"))

spec = importlib.util.spec_from_file_location("answers", FOLDER / "answers.py")
assert spec is not None
assert spec.loader is not None
answers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(answers)


def test_the_pages_say_what_the_data_says():
    written = [ask() for ask in answers.QUESTIONS]
    assert len(written) == 7
    assert (FOLDER / "README.md").read_text() == answers.page(written)
    assert answers.findings(written) in (ROOT / "README.md").read_text()
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


def test_the_data_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.nc")) < 5e6


SWAPPED = {"coupling": ("learning_rate", [3, 2, 1, 0]), "order": ("site", [1, 0, 2])}


@pytest.mark.parametrize("name", SWAPPED)
def test_other_data_would_not_be_given_the_same_verdict(name, monkeypatch):
    axis, order = SWAPPED[name]
    study = answers.study
    data = study(name)
    swapped = data.isel({axis: order}).assign_coords({axis: data[axis]})
    monkeypatch.setattr(answers, "study", lambda asked: swapped if asked == name else study(asked))
    with pytest.raises(ValueError, match="the data does not say: "):
        getattr(answers, name)()


def test_a_difference_counts_when_its_interval_leaves_out_zero():
    noise = results.interval(np.array([-1.0, 1.0, 0.5]))
    assert not answers.differs(noise)
    assert answers.differs(results.interval(np.array([1.0, 1.1, 0.9])))
    assert re.fullmatch(r"\+16\.7 ± \d+\.\d", answers.points(noise))
