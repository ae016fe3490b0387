"""What is claimed of an optimizer, and what was run to check it."""

import dataclasses
from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Driven:
    """The runs that a claim was checked on, in float64, where casts to narrower types do nothing.

    Attributes:
      leaves: the shapes of the weights by their paths.
      steps: of each run.
      scales: of the gradients that were given, one after the other in one run. In another run gradients answered to
        the weights: those of a quadratic.
      values: of the hyperparameters that are symbols.
      together: whether the leaves were one tree; else each was run by itself, since a tree of them is refused.
      moved: how far the weight went that went farthest, relative to its size: below 1e-9 there is little to see.
    """

    leaves: Mapping[str, Shape]
    steps: int
    scales: tuple[float, ...]
    values: Mapping[str, float]
    together: bool = True
    moved: float = 1.0

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(self.leaves.values())

    def __str__(self) -> str:
        how = "in one tree" if self.together else "one by one"
        moves = "no weight moves" if self.moved == 0 else "weights move too little to see"
        unseen = f", in which {moves}" if self.moved < 1e-9 else ""
        return f"{self.steps} steps {how}, gradients given and those of a quadratic{unseen}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """Where equations hold.

    Attributes:
      driven: what was run.
      holds: the shapes of the leaves of which the equations predict every weight after every step.
      differs: the other shapes that were run, each with the first step that is not predicted.
      sums: what `Σ` and `N` are of: `each leaf`, `all leaves`, or where neither fits, which sum is of what; empty where
        the equations have none.
    """

    driven: Driven
    holds: tuple[Shape, ...]
    differs: Mapping[Shape, int]
    sums: str = ""

    @property
    def rows(self) -> dict[str, str]:
        """What there is to say, by a word for it."""
        alike = self.sums in ("each leaf", "all leaves")
        sums = {"sums": f"Σ and N are of {self.sums}" if alike else self.sums} if self.sums else {}
        return {"holds for": kinds(self.holds), "driven": str(self.driven), **sums}

    def __str__(self) -> str:
        return "; ".join(f"{word} {what}" for word, what in self.rows.items())


def kinds(shapes: Sequence[Shape]) -> str:
    """Shapes in words: `vectors (3,), matrices (4, 3) and (130, 129)`."""
    by_rank: dict[int, list[Shape]] = {}
    for shape in shapes:
        by_rank.setdefault(len(shape), []).append(shape)
    names = {0: "scalars", 1: "vectors", 2: "matrices"}
    return ", ".join(
        f"{names.get(rank, f'leaves of {rank} axes')} {' and '.join(map(str, alike))}"
        for rank, alike in sorted(by_rank.items())
    )
