"""What `optlab bench` prints: every part at a small size, its ratios, and what is left out."""

import json
import re

import pytest

from optlab import cli
from optlab.bench import provenance
from optlab.bench import steps as bench
from optlab.outside import system

TINY = {"one leaf": [(64,)], "three leaves": [(4, 4), (2, 8), (8,)]}


@pytest.fixture(autouse=True)
def _no_collecting(monkeypatch):
    """What tests before these left behind takes seconds to look through, at every call."""
    monkeypatch.setattr(bench.gc, "collect", lambda: 0)


@pytest.mark.parametrize("peers", [[], pytest.param(["torch fused", "torch foreach"], marks=pytest.mark.torch)])
def test_a_step_is_taken_against_every_peer(peers, peer, monkeypatch):
    if not peers:
        monkeypatch.setattr(bench, "_torch", lambda: None)
    with peer():
        rows = bench.step_rows(repeats=1, trees=TINY)
    assert [row.name for row in rows] == list(TINY)
    for row in rows:
        assert list(row.figures) == ["optlab", "optax", *peers, "handed through", "copy of 28 bytes"]
        assert all(milliseconds > 0 for milliseconds in row.figures.values())


def test_counts_are_those_of_the_compiled_step(peer):
    shapes = [(1000,)] * 4
    with peer():
        counted = {who: bench.counts(make(), shapes) for who, make in bench.MAKERS.items()}
    assert counted["optlab"] == pytest.approx(counted["optax"], abs=0.1)
    assert round(counted["optlab"]["bytes accessed per weight"]) == 40
    assert round(counted["optlab"]["flops per weight"]) == 15
    assert counted["optlab"]["loops per leaf"] == 3 + 3 / 4  # the two moments and the weights; three loops of scalars


def test_smaller_states_take_their_bytes(peer):
    with peer():
        kept, *temporary, compiling, step = bench.state_rows(repeats=1, shapes=[(64, 64)], trees={"a leaf": [(64, 64)]})
    assert [round(held, 2) for held in kept.figures.values()] == [8.0, 4.0, 2.03]
    assert [row.name for row in temporary] == [
        "temporary bytes per weight, an update of a leaf",
        "temporary bytes per weight, a train_step of 1 matrices of 64²",
    ]
    assert all(list(row.figures) == ["float32", "bfloat16", "int8"] for row in (*temporary, compiling))
    assert list(step.figures) == ["float32", "bfloat16", "int8", "bfloat16 weights"]


def test_a_program_that_hands_through_computes_nothing():
    call = bench.handing_through(TINY["three leaves"])
    (first, _), (second, _) = call(), call()
    assert all((first[name] == second[name]).all() for name in first)


def test_the_tree_of_the_transformer_is_flax_s():
    ((name, shapes),) = bench.flax_tree().items()
    assert name == f"a Flax transformer, {len(shapes)} leaves, 1.3M"
    assert bench.weights(shapes) == 1_288_448


def test_where_it_was_measured_is_said_without_git_and_without_a_load(monkeypatch):
    def no_git(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert provenance.setting(3)["commit"] == "unknown"
    assert provenance.setting(3, "flax")["versions"].startswith(provenance.setting(3)["versions"] + ", flax ")
    monkeypatch.delattr(system.os, "getloadavg", raising=False)
    assert system.load() is None
    assert provenance.load_between(None, None).startswith("unknown, ")
    assert provenance.load_between(0.12, 3.0).startswith("0.1 before, 3.0 after, ")


def test_the_table_shows_ratios_and_gaps():
    rows = [
        {"name": "a tree", "unit": "ms", "figures": {"optlab": 2.0, "optax": 1.0, "torch": None}},
        {"name": "another", "unit": "ms", "figures": {"optlab": 123.4, "optax": 246.8}},
    ]
    figures = {"rows": {"step": rows}, "left out": ["torch"], "setting": {"repeats": 1}}
    assert bench.table(figures).splitlines() == [
        "| A step of float32 weights (ms) | optlab | optax | torch |",
        "|---|---|---|---|",
        "| a tree | 2 | 1 (2.00) |  |",
        "| another | 123 | 247 (0.50) |  |",
        "",
        "left out: torch",
        "repeats: 1",
    ]


def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch, peer):
    monkeypatch.setattr(bench, "TREES", TINY)
    monkeypatch.setattr(bench, "flax_tree", dict)
    monkeypatch.setattr(bench, "_torch", lambda: None)
    path = tmp_path / "figures.json"
    with peer():
        assert cli.main(["bench", "step", "--repeats", "2", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^\| one leaf \| [\d.e-]+ \| [\d.e-]+ \([\d.]+\) \|", printed, flags=re.MULTILINE)
    assert "left out: torch.optim.AdamW: torch is not installed, or not for this device" in printed
    assert "left out: the Flax transformer: pip install 'optlab[lab]'" in printed
    assert bench.table(json.loads(path.read_text())) == printed.rstrip("\n")


@pytest.mark.parametrize(
    ("command", "message"),
    {
        "bench nothing": "there is no part 'nothing'; give some of counts, compile, eager, step, state, study",
        "bench step --repeats 0": "repeats must be a whole number from 1, got 0",
    }.items(),
)
def test_what_can_not_be_measured_is_one_line(command, message, capsys):
    assert cli.main(command.split()) == 2
    assert capsys.readouterr().err == f"optlab bench: {message}\n"
