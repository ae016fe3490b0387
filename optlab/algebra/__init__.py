"""What a transform is, how it is lifted from one weight to trees, and how transforms are combined."""

from optlab.algebra.combinators import chain, divide, identity
from optlab.algebra.drawing import draw
from optlab.algebra.lifting import State
from optlab.algebra.rules import Rule
from optlab.algebra.transform import Transform, atom

__all__ = ["Rule", "State", "Transform", "atom", "chain", "divide", "draw", "identity"]
