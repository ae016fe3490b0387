"""Every example prints what its docstring says it prints; the README's code runs, and its findings are in the data."""

import ast
import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import defaults
import figures
import pytest

from optlab.lab import results

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_it_says(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    command, said = docstring.split("\nprints\n\n")
    assert f"    python examples/{path.name}\n" in command
    assert run(str(path)).strip() == textwrap.dedent(said).strip()


README = (ROOT / "README.md").read_text()


def test_readme_blocks_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    run("-c", "\n".join(blocks))


COMMANDS = re.findall(r"^\$ optlab (.*)\n((?:(?!```|\$ ).*\n)*)", README, flags=re.MULTILINE)


@pytest.mark.parametrize(("command", "said"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_readme_shows_what_the_command_line_prints(command: str, said: str) -> None:
    assert run("-m", "optlab", *command.split()) == said


def test_readme_findings_are_in_the_data() -> None:
    data = results.load(ROOT / "examples" / "studies" / "decay" / "results.nc")
    found = " ".join(README[README.index("## What we found") : README.index("One task, one small")].split())
    best = {cell.structure: cell for cell in results.best_cells(data)}
    gains = results.gains(data)
    assert gains is not None
    at = {rate: number for number, rate in enumerate(data.learning_rate.values.tolist())}

    def percent(site: str, rate: float) -> str:
        return gains[site][at[rate]].percent()

    said = (
        f"no decay reaches {best['none'].reported.percent()} ",
        f"AdamW's `update` is {best['update'].against_none.percent()} above that",
        f"L2 in the gradient {best['gradient'].against_none.percent()};",
        f"the best decay adds {percent('update', 0.003)} points under `update` and {percent('gradient', 0.003)} under",
        f"at rate 0.1 it is {percent('update', 0.1)} and {percent('gradient', 0.1)}, and",
        f"{percent('second_moment', 0.1)} when the second moment alone sees the weights",
        f"{100 * best['first_moment'].diverged_share:.0f}% of the runs of this grid",
        f"{100 * best['direction'].diverged_share:.0f}% with",
        f"{data.sizes['learning_rate']} learning rates, {data.sizes['weight_decay']} decays and",
        f"{data.sizes['seed']} seeds",
    )
    for phrase in said:
        assert phrase in found
    for cell in best.values():
        if cell.against_none is not None:
            assert abs(cell.against_none.mean) < cell.against_none.half_width
    at_best = results.best_decays(data).test_accuracy
    accuracy = {site: at_best.sel(structure=site, learning_rate=cell.learning_rate) for site, cell in best.items()}
    parted = {}
    for a, b in itertools.combinations(accuracy, 2):
        difference = results.interval((accuracy[a] - accuracy[b]).values)
        if abs(difference.mean) > difference.half_width:
            parted[a, b] = difference.percent()
    assert parted == {("first_moment", "update"): "-0.6 ± 0.5", ("first_moment", "step"): "-0.6 ± 0.5"}
    assert "21 pairs" in found
    assert "by 0.6 ± 0.5" in found
    largest = results.best_decays(data).weight_decay.sel(structure="second_moment", learning_rate=0.1)
    assert largest == data.weight_decay.max()
    for site in ("first_moment", "direction"):
        assert not any(gain.mean > gain.half_width for gain in gains[site])
    assert f"trains {data.attrs['runs']:,} small networks" in README


@pytest.mark.parametrize("table", [defaults.markdown, figures.markdown], ids=["defaults", "figures"])
def test_readme_holds_the_table_as_it_is_printed(table) -> None:
    assert table().strip() in README
