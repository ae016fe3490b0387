"""Where the defaults of optlab, optax and torch differ: the table, and the same read from their signatures.

`python -c "import defaults; print(defaults.markdown())"`, in this folder, prints it as Markdown.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import optlab

REQUIRED = "required"
ABSENT = "-"

HYPERPARAMETERS = ("learning_rate", "b1", "b2", "decay", "eps", "weight_decay", "initial")


class Cell(NamedTuple):
    """One default, three times; `REQUIRED` where there is none, `ABSENT` where there is no such argument."""

    optlab: Any
    optax: Any
    torch: Any


# By optimizer and hyperparameter. A hyperparameter that none of the three takes has no row.
DEFAULTS: dict[str, dict[str, Cell]] = {
    "sgd": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 1e-3),
        "b1": Cell(ABSENT, None, 0),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
    },
    "adagrad": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 1e-2),
        "eps": Cell(1e-8, 1e-7, 1e-10),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
        "initial": Cell(0.0, 0.1, 0),
    },
    "rmsprop": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 1e-2),
        "b1": Cell(ABSENT, None, 0),
        "decay": Cell(REQUIRED, 0.9, 0.99),
        "eps": Cell(1e-8, 1e-8, 1e-8),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
        "initial": Cell(ABSENT, 0.0, ABSENT),
    },
    "adam": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 1e-3),
        "b1": Cell(0.9, 0.9, 0.9),
        "b2": Cell(0.999, 0.999, 0.999),
        "eps": Cell(1e-8, 1e-8, 1e-8),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
    },
    "adamw": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 1e-3),
        "b1": Cell(0.9, 0.9, 0.9),
        "b2": Cell(0.999, 0.999, 0.999),
        "eps": Cell(1e-8, 1e-8, 1e-8),
        "weight_decay": Cell(REQUIRED, 1e-4, 1e-2),
    },
    "amsgrad": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 1e-3),
        "b1": Cell(0.9, 0.9, 0.9),
        "b2": Cell(0.999, 0.999, 0.999),
        "eps": Cell(1e-8, 1e-8, 1e-8),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
    },
    "nadam": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 2e-3),
        "b1": Cell(0.9, 0.9, 0.9),
        "b2": Cell(0.999, 0.999, 0.999),
        "eps": Cell(1e-8, 1e-8, 1e-8),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
    },
    "adamax": {
        "learning_rate": Cell(REQUIRED, REQUIRED, 2e-3),
        "b1": Cell(0.9, 0.9, 0.9),
        "b2": Cell(0.999, 0.999, 0.999),
        "eps": Cell(1e-8, 1e-8, 1e-8),
        "weight_decay": Cell(ABSENT, ABSENT, 0),
    },
    "lion": {
        "learning_rate": Cell(REQUIRED, REQUIRED, ABSENT),
        "b1": Cell(0.9, 0.9, ABSENT),
        "b2": Cell(0.99, 0.99, ABSENT),
        "weight_decay": Cell(REQUIRED, 1e-3, ABSENT),
    },
    "adabelief": {
        "learning_rate": Cell(REQUIRED, REQUIRED, ABSENT),
        "b1": Cell(0.9, 0.9, ABSENT),
        "b2": Cell(0.999, 0.999, ABSENT),
        "eps": Cell(1e-16, 1e-16, ABSENT),
    },
}


# The same, read -----------------------------------------------------------------------------------------------------

TORCH_CLASSES = {
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "amsgrad": "Adam",  # with amsgrad=True
    "nadam": "NAdam",
    "adamax": "Adamax",
}

# What else a hyperparameter is called.
_OPTAX_NAMES = {"b1": "momentum", "initial": "initial_accumulator_value"}
_TORCH_NAMES = {"learning_rate": "lr", "b1": "momentum", "decay": "alpha", "initial": "initial_accumulator_value"}


def _by_name(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is inspect.Parameter.empty else p.default for p in parameters}


def read_optlab(optimizer: str) -> dict[str, Any]:
    return _by_name(getattr(optlab, optimizer))


def read_optax(optimizer: str) -> dict[str, Any]:
    found = _by_name(getattr(optax, optimizer))
    for ours, theirs in (*_OPTAX_NAMES.items(), ("initial", "initial_scale")):
        if theirs in found:
            found[ours] = found[theirs]
    return found


def read_torch(optimizer: str) -> dict[str, Any]:
    import torch

    if optimizer not in TORCH_CLASSES:
        return {}
    found = _by_name(getattr(torch.optim, TORCH_CLASSES[optimizer]))
    for ours, theirs in _TORCH_NAMES.items():
        if theirs in found:
            found[ours] = found[theirs]
    if "betas" in found:
        found["b1"], found["b2"] = found["betas"]
    return found


# As Markdown --------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "none"
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.1 else f"{value:g}"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    values = [_text(value) for value in cell]
    present = {value for value in values if value != ABSENT}
    return present.pop() if len(present) == 1 and ABSENT not in values[:2] else " / ".join(values)


NOTES = """\
In a cell: optlab / optax / torch, or the one default that they share; `-` where there is no such argument. `b1` of
`sgd` and `rmsprop` is their momentum. torch's `amsgrad` is `Adam(amsgrad=True)`. torch's `weight_decay` is L2 in every
class but `AdamW`. optax's `adagrad` and `rmsprop` have `eps` inside the root, the others outside.
"""


def markdown() -> str:
    """The table, a row per optimizer, and its notes."""
    rows = [["", *HYPERPARAMETERS], ["---"] * (1 + len(HYPERPARAMETERS))]
    for optimizer, cells in DEFAULTS.items():
        rows.append([f"`{optimizer}`", *(_cell(cells.get(name)) for name in HYPERPARAMETERS)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{NOTES}"
