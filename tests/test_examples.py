"""Every example prints what its docstring says it prints; the README's code runs, and its findings are in the data."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

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


def test_readme_findings_are_in_the_data() -> None:
    data = results.load(ROOT / "examples" / "studies" / "decay" / "results.nc")
    found = " ".join(README[README.index("## What we found") : README.index("One task, one small")].split())
    best = {cell.site: cell for cell in results.best_cells(data)}
    gains = results.gains(data)
    assert gains is not None
    at = {rate: number for number, rate in enumerate(data.learning_rate.values.tolist())}
    said = (
        f"no decay reaches {best['none'].test_accuracy.percent()} ",
        f"AdamW's `update` is {best['update'].against_none.percent()} above that",
        f"L2 in the gradient {best['gradient'].against_none.percent()}.",
        f"the best decay adds {gains['update'][at[0.003]].percent()} points under `update`",
        f"and {gains['gradient'][at[0.003]].percent()} under `gradient`",
        f"adds {gains['second_moment'][at[0.1]].percent()} against {gains['update'][at[0.1]].percent()}.",
        f"{100 * best['first_moment'].diverged_share:.0f}% of the runs with decay in the first moment",
        f"and {100 * best['direction'].diverged_share:.0f}% of those with",
        f"{data.sizes['learning_rate']} learning rates, {data.sizes['weight_decay']} decays and",
        f"{data.sizes['seed']} seeds",
    )
    for phrase in said:
        assert phrase in found
    for cell in best.values():
        if cell.against_none is not None:
            assert abs(cell.against_none.mean) < cell.against_none.half_width
    for site in ("first_moment", "direction"):
        assert not any(gain.mean > gain.half_width for gain in gains[site])
    assert f"trains {data.attrs['runs']:,} small networks" in README
