"""What the README says of small state is what the data of its study says."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "studies" / "small_state.py"

spec = importlib.util.spec_from_file_location("small_state", SCRIPT)
assert spec is not None
assert spec.loader is not None
small_state = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_state)

DATA = json.loads(small_state.FILE.read_text())
README = (ROOT / "README.md").read_text()
SECTION = " ".join(README[README.index("## Small state") : README.index("## What composition costs")].split())
TASKS = list(DATA["tasks"])
BY_CHANCE, KAHAN = (small_state.WEIGHTS + how for how in ("by chance", "Kahan"))


def said(form):
    return " and ".join(f"{100 * small_state.recovered(DATA, task, form):.1f}%" for task in TASKS)


def test_the_readme_holds_the_table_and_the_shares():
    assert small_state.table(DATA) in README
    assert (
        f"by chance these recover {said(BY_CHANCE)} of what nearest rounding loses, by Kahan {said(KAHAN)}" in SECTION
    )
    assert ", ".join(f"{name} {number}" for name, number in DATA["versions"].items()) in SECTION


@pytest.mark.parametrize("task", TASKS)
def test_what_it_concludes(task):
    kept = {form: small_state.within_seeds(DATA, task, form) for form in small_state.FORMS}
    assert [form for form, within in kept.items() if not within] == [small_state.NAIVE_WEIGHTS]
    assert all(small_state.recovered(DATA, task, form) >= 0.9 for form in (BY_CHANCE, KAHAN))
    naive = small_state.losses(DATA, task, "bfloat16 state, to nearest") - small_state.losses(DATA, task, "float32")
    assert (naive > 0).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_data_is_of_the_forms_and_settings_that_stand_in_the_script(task):
    found, setting = DATA["tasks"][task], small_state.SETTINGS[task]
    made = setting.make()
    assert f"{made.steps} steps" in found["description"]
    assert (found["learning_rate"], found["weight_decay"]) == (setting.learning_rate, setting.weight_decay)
    for form, values in found["metrics"].items():
        assert all(len(seeds) == small_state.SEEDS for seeds in values.values())
        assert found["state bytes"][form] == small_state.state_bytes(setting, made, small_state.FORMS[form])
    assert list(found["metrics"]) == list(small_state.FORMS)
    assert small_state.FILE.stat().st_size < 100_000


def test_other_data_would_not_be_given_the_same_verdict():
    other = copy.deepcopy(DATA)
    metrics = other["tasks"]["digits"]["metrics"]
    metrics["int8 state"] = metrics[small_state.NAIVE_WEIGHTS]
    assert not small_state.within_seeds(other, "digits", "int8 state")
    assert small_state.table(other) not in README
