"""What `identify` says of torch's and optax's optimizers: the table of the README.

`python identified.py`, in this folder, prints it; `python identified.py NAME` prints the card of one row.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax
from black_boxes import of_torch

from optlab.blackbox import Card, identify
from optlab.blackbox.card import eps_place

README = Path(__file__).parent.parent / "README.md"


class Row(NamedTuple):
    """An optimizer's name, and what gives the box; one of torch's is looked up when its row is filled in."""

    name: str
    box: Callable[[], Callable[..., Any]]


def _optax(name: str, **fixed: Any) -> Row:
    arguments = ", ".join(f"{key}={value}" for key, value in fixed.items())
    box = functools.partial(getattr(optax, name), **fixed)
    return Row(f"optax.{name}({arguments})" if fixed else f"optax.{name}", lambda: box)


def _torch(name: str, **fixed: Any) -> Row:
    arguments = ", ".join(f"{key}={value}" for key, value in fixed.items())
    full = f"torch.optim.{name}({arguments})" if fixed else f"torch.optim.{name}"
    return Row(full, lambda: functools.partial(of_torch(name), **fixed))


ROWS = [
    _torch("SGD"),
    _torch("SGD", momentum=0.9),
    _torch("Adagrad"),
    _torch("RMSprop"),
    _torch("Adadelta"),
    _torch("Adam"),
    _torch("AdamW"),
    _torch("Adam", amsgrad=True),
    _torch("NAdam"),
    _torch("Adamax"),
    _torch("RAdam"),
    _optax("sgd"),
    _optax("sgd", momentum=0.9),
    _optax("adagrad"),
    _optax("rmsprop"),
    _optax("adadelta"),
    _optax("adam"),
    _optax("adamw"),
    _optax("amsgrad"),
    _optax("nadam"),
    _optax("nadamw"),
    _optax("adamax"),
    _optax("adamaxw"),
    _optax("radam"),
    _optax("adabelief"),
    _optax("lion"),
    _optax("signum"),
    _optax("yogi"),
    _optax("lamb"),
]
HEADINGS = ("box", "family", "decay", "corrected", "eps", "recovered")


def _said(card: Card) -> list[str]:
    if card.core is None:
        return [f"none; nearest {card.nearest}" + (", mixes the weights" if card.mixes else ""), "", "", "", ""]
    same = f" = {', '.join(f'`{site}`' for site in card.same_as)}" if card.same_as else ""
    eps = "" if card.core.eps == "none" else eps_place(card.core).replace(" the root", "")
    values = [f"{name} {value.value:.5g}" for name, value in card.values.items() if value.given is None]
    moments = card.correction.removeprefix("the ").removesuffix(" moment").removesuffix(" moments")
    return [
        f"`{card.family}`",
        f"`{card.site}`{same}",
        "" if moments == "not applicable" else moments,
        eps,
        ", ".join(values),
    ]


@functools.cache
def line(row: Row) -> str:
    """The row as Markdown."""
    return f"| {' | '.join([f'`{row.name}`', *_said(identify(row.box()))])} |"


def markdown() -> str:
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}", *map(line, ROWS)]
    return "\n".join(lines)


if __name__ == "__main__":
    names = sys.argv[1:]
    print(markdown() if not names else "\n\n".join(str(identify(row.box())) for row in ROWS if row.name in names))
