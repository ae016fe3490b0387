"""The command line around equations and black boxes: what it prints, and one line for what can't be done."""

import subprocess
import sys

import pytest

import optlab
from optlab import cli
from optlab.outside import names

MODULE = """
import optax

def mine(learning_rate, weight_decay):
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay), optax.scale(-learning_rate))

NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a user's module, `own.py`, and one that can't be imported, `broken.py`."""
    (tmp_path / "own.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_without_a_command_it_prints_its_help(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: optlab ")
    assert "print the equations of an optimizer" in printed.out
    assert printed.err == ""
    done = subprocess.run([sys.executable, "-m", "optlab"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == printed.out.split()  # a terminal of another width breaks the lines elsewhere


def test_it_prints_its_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"optlab {optlab.__version__}\n"


@pytest.mark.parametrize("argument", ["explian", "--verbose"])
def test_what_is_no_command_is_one_line(argument, capsys):
    assert cli.main([argument]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("optlab: ")
    assert argument in printed.err
    assert printed.err.endswith(" (see optlab --help)\n")


def test_explain_prints_equations_and_regime(capsys):
    assert cli.main(["explain", "adamw"]) == 0
    printed = capsys.readouterr().out
    assert "  wₜ = wₜ₋₁ − η·(m̂ₜ/(√v̂ₜ + ε) + λ·wₜ₋₁)\n" in printed
    assert "  decay:      update" in printed


def test_explain_prints_latex_alone(capsys):
    assert cli.main(["explain", "optax.adamw", "--latex"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("\\begin{aligned}\n")
    assert printed.endswith("\n\\end{aligned}\n")


def test_explain_finds_a_factory_in_the_current_folder(folder, capsys):
    assert cli.main(["explain", "own:mine"]) == 0
    assert "λ·wₜ₋₁" in capsys.readouterr().out


def test_compare_says_equal_or_where_they_part(capsys):
    assert cli.main(["compare", "adamw", "optax.adamw", "--steps", "2"]) == 0
    assert capsys.readouterr().out.startswith("equal: ")
    assert cli.main(["compare", "adam_l2", "adamw"]) == 0
    assert "part at step 1\n" in capsys.readouterr().out


def test_identify_prints_a_card_and_what_a_name_promises(folder, capsys):
    assert cli.main(["identify", "own:mine"]) == 0
    assert capsys.readouterr().out.startswith("family          adam\ndecay           update")
    assert cli.main(["identify", "own:mine", "--says", "adamw"]) == 0
    assert capsys.readouterr().out == "adamw: passes\n"


ERRORS = {
    "explain adamv": "adamv: optlab has no 'adamv'; did you mean adam, nadam, adamw?",
    "explain optax.adamww": "optax.adamww: optax has no 'adamww'; did you mean adamw, nadamw, adam?",
    "explain nothing.there": "nothing.there: there is no module 'nothing'",
    "explain nothing:there": "nothing:there: there is no module 'nothing'",
    "explain optax.nothing.there": "optax.nothing.there: there is no module 'optax.nothing'",
    "explain :there": "':there' is no name; give adamw, optax.adamw or package.module:factory",
    "explain optax:": "'optax:' is no name; give adamw, optax.adamw or package.module:factory",
    "explain broken:there": "broken:there: importing broken raises RuntimeError: not today",
    "explain needy:there": "needy:there: needy needs no_such_package, which is not installed",
    "explain own:NUMBER": "wanted a transform, or a function that makes one of its hyperparameters; got 3 (int)",
    "explain": "the following arguments are required: optimizer (see optlab explain --help)",
    "compare adam": "the following arguments are required: other (see optlab compare --help)",
    "compare adam adam --steps 0": "steps must be a whole number from 1, got 0",
    "identify adamw --learning-rate -1": "learning_rate must be a finite number > 0, got -1.0",
    "identify own:NUMBER": "make must be callable as make(learning_rate, weight_decay), got 3",
    "compare adam adam --steps two": "argument --steps: invalid int value: 'two' (see optlab compare --help)",
}


@pytest.mark.parametrize("command", ERRORS)
def test_what_can_not_be_done_is_one_line_and_exit_2(command, folder, capsys):
    assert cli.main(command.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"optlab {command.split()[0]}: {ERRORS[command]}\n"


def test_a_name_with_dots_and_one_with_a_colon_are_the_same_object(folder):
    assert names.resolve("own.mine", optlab) is names.resolve("own:mine", optlab)


def test_without_the_extra_explain_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sympy", None)
    assert cli.main(["explain", "adamw"]) == 2
    assert capsys.readouterr().err == "optlab explain: explain needs sympy: pip install 'optlab[explain]'\n"
