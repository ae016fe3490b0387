"""The table of defaults says what the signatures of optlab, optax and torch say."""

import inspect

import defaults
import optax
import pytest
from cases import CASES
from defaults import ABSENT, DEFAULTS, HYPERPARAMETERS, REQUIRED, Cell
from torch_cases import RUNS

READERS = {"optlab": defaults.read_optlab, "optax": defaults.read_optax, "torch": defaults.read_torch}


@pytest.mark.parametrize("library", ["optlab", "optax", pytest.param("torch", marks=pytest.mark.torch)])
def test_table_is_what_the_signatures_say(library):
    for optimizer, cells in DEFAULTS.items():
        found = READERS[library](optimizer)
        read = {name: found[name] for name in HYPERPARAMETERS if name in found}
        table = {name: getattr(cell, library) for name, cell in cells.items()}
        assert read == {name: value for name, value in table.items() if value != ABSENT}, optimizer


def test_no_row_is_empty():
    for cells in DEFAULTS.values():
        assert all(set(cell) != {ABSENT} for cell in cells.values())
        assert list(cells) == [name for name in HYPERPARAMETERS if name in cells]


def test_weight_decay_is_never_ours_to_choose():
    ours = {cells["weight_decay"].optlab for cells in DEFAULTS.values() if "weight_decay" in cells}
    assert ours == {ABSENT, REQUIRED}
    assert DEFAULTS["adamw"]["weight_decay"] == Cell(REQUIRED, 1e-4, 1e-2)


def test_markdown():
    table, notes = defaults.markdown().split("\n\n")
    lines = table.splitlines()
    assert lines[0] == "|  | learning_rate | b1 | b2 | decay | eps | weight_decay | initial |"
    assert len(lines) == 2 + len(DEFAULTS)
    assert len({line.count("|") for line in lines}) == 1
    assert lines[3] == (
        "| `adagrad` | required / required / 1e-2 |  |  |  | 1e-8 / 1e-7 / 1e-10 | - / - / 0 | 0 / 0.1 / 0 |"
    )
    assert "| `adamw` | required / required / 1e-3 | 0.9 | 0.999 |  | 1e-8 | required / 1e-4 / 1e-2 |  |" in lines
    assert "| `lion` | required | 0.9 | 0.99 |  |  | required / 1e-3 / - |  |" in lines
    assert notes == defaults.NOTES


def test_the_notes_on_eps():
    """optax's adagrad has its eps inside the root without a choice: `cases.py` has both forms of each."""
    assert inspect.signature(optax.rmsprop).parameters["eps_in_sqrt"].default is True
    assert {"adagrad_eps_in_root", "rmsprop_eps_in_root"} <= CASES.keys()
    assert CASES["adagrad"].peer is None


def test_the_notes_on_torchs_weight_decay():
    """`test_torch` holds each of these runs against torch."""
    with_decay = {run for run in RUNS if RUNS[run].kwargs.get("weight_decay")}
    coupled = {run for run in with_decay if RUNS[run].ours.parts[0].name == "add_l2_to_grad"}
    assert {RUNS[run].torch for run in with_decay - coupled} == {"AdamW", "NAdam"}
    assert all(RUNS[run].kwargs.get("decoupled_weight_decay") for run in with_decay - coupled if "NAdam" in run)
    assert {RUNS[run].torch for run in coupled} == {*defaults.TORCH_CLASSES.values()} - {"AdamW"}
