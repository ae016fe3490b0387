"""Data flow as text: links from top to bottom, a fork and its join for every quotient."""

import optax

from optlab.algebra.combinators import chain, divide, require_transform
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, describe

Block = list[str]


@spelled()
def draw(tx: optax.GradientTransformation) -> str:
    """The data flow of `tx`, one line per link; two columns where a quotient feeds the same updates to two sides.

    print(optlab.draw(optlab.adamw(1e-3, weight_decay=0.1)))
    """
    require_transform("draw: the argument", tx)
    return "\n".join(line.rstrip() for line in ["updates", "│", *_links(tx), "▼"])


def _links(tx: optax.GradientTransformation) -> Block:
    """The lines of `tx`, the flow entering and leaving at the first column."""
    if isinstance(tx, Transform) and tx.maker is chain:
        return [line for part in tx.parts for line in _links(part)]
    if isinstance(tx, Transform) and len(tx.parts) > 1:
        return _fork(tx) + [line for part in tx.parts[2:] for line in _links(part)]
    reads = isinstance(tx, Transform) and tx.rule is not None and tx.rule.needs_params
    return [describe(tx) + ("  ← params" if reads else ""), "│"]


def _fork(tx: Transform) -> Block:
    left, right = map(_links, tx.parts[:2])
    height = max(len(left), len(right))
    left, right = (side + ["│"] * (height - len(side)) for side in (left, right))
    width = max(map(len, left)) + 3
    return [
        "├" + "─" * (width - 1) + "┐",
        *(a.ljust(width) + b for a, b in zip(left, right, strict=True)),
        *_join(tx, width),
    ]


def _join(tx: Transform, width: int) -> Block:
    if tx.maker is divide:
        return ["├ ÷ " + "─" * (width - 4) + "┘", "│"]
    values = ", ".join(f"{name}={value!r}" for name, value in tx.hyperparams.items() if value is not None)
    return ["├" + "─" * (width - 1) + "┘", f"{tx.name}({values})", "│"]
