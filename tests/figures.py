"""How optlab is tested, in numbers: the table of the README. `python figures.py`, in this folder, prints it."""

import inspect
from types import ModuleType

import black_boxes
import cases
import public
import test_answers
import test_closed_forms as closed_forms
import test_compare
import test_errors
import test_explain
import test_identify
import test_kernel
import test_notes
import test_sites
import torch_cases
import trajectories
import wrong_optimizers
import wrong_transforms

from optlab import testing


def _functions(module: ModuleType, prefix: str = "") -> int:
    own = (item for item in vars(module).values() if inspect.isfunction(item) and item.__module__ == module.__name__)
    return sum(item.__name__.startswith(prefix) and not item.__name__.startswith("_") for item in own)


def _command(files: list[str]) -> str:
    paths = " ".join(f"tests/test_{name}.py" for name in files)
    return f"`make test ARGS='{paths}'`"


def markdown() -> str:
    """The table, with a command for every row."""
    peers = sum(case.peer is not None for case in cases.CASES.values())
    wrong = sum(map(len, [*wrong_optimizers.WRONG.values(), *wrong_optimizers.WRONG_DECAYS.values()]))
    broken = sum(map(len, wrong_transforms.WRONG.values()))
    loops = (
        f"{len(cases.OPTIMIZERS)} optimizers in {len(trajectories.SETTINGS)} settings, {len(test_sites.POINTS)} decays"
    )
    rows = [
        ("float64 loops written from the papers, matched at every step", loops, "trajectories", "sites"),
        ("optax at every step", f"{peers} expressions", "trajectories"),
        ("PyTorch at every step", f"{len(torch_cases.RUNS)} runs of {torch_cases.STEPS} steps", "torch"),
        ("what the notes say that optlab began with", f"{_functions(test_notes, 'test_')} tests", "notes"),
        ("first steps, limits and other closed forms", f"{_functions(closed_forms, 'test_')} tests", "closed_forms"),
        ("wrong optimizers that these oracles have to reject", f"{wrong}, all rejected", "mutants", "sites"),
        (
            "properties of every public transform",
            f"{len(testing.PROPERTIES)} times {len(public.TRANSFORMS)}",
            "properties",
        ),
        ("broken transforms that the properties have to reject", f"{broken}, all rejected", "properties"),
        (
            "equations of `explain`, as numbers, beside the run that they were read off",
            f"{len(test_explain.EXPLAINED)} of optlab's and optax's",
            "explain",
        ),
        ("misreadings that the equations have to show", f"{len(test_explain.MISREAD)}, all rejected", "explain"),
        ("optimizers that `compare` has to prove equal", f"{len(test_compare.EQUAL)} pairs", "compare"),
        ("nearly equal ones, to part at the right step", f"{len(test_compare.NEAR)} pairs", "compare"),
        (
            "equal on a vector alone, to part where they do",
            f"{len(test_compare.FALSE_PROOFS)} pairs",
            "compare",
        ),
        ("leaves that go another way, to be named", f"{len(test_explain.ELSEWHERE)} transforms", "explain"),
        (
            "boxes of no family that `identify` may not claim",
            f"{len(black_boxes.OUTSIDERS)}, none claimed",
            "identify",
        ),
        (
            "known optimizers, drawn at random, that `identify` has to name",
            f"{len(test_identify.DRAWS) + len(test_identify.SINGLE)} draws",
            "identify",
        ),
        ("wrong kernels for small state, to be seen", f"{len(test_kernel.MUTANTS)}, all seen", "kernel"),
        (
            "questions whose verdict is refused when the data says otherwise",
            f"{len(test_answers.SWAPPED)} of {len(test_answers.answers.QUESTIONS)}",
            "answers",
        ),
        ("bad input, each with its message", f"{len(test_errors.TABLE)} rows", "errors"),
    ]
    lines = [f"| {what} | {count} | {_command(files)} |" for what, count, *files in rows]
    return "\n".join(["| what | how much | command |", "|---|---|---|", *lines])


if __name__ == "__main__":
    print(markdown())
