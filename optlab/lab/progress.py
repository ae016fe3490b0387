"""How far a study is."""

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a study is.

    Attributes:
      doing: the structure that is trained.
      done: runs that are finished, those of an earlier start among them.
      underway: runs of the chunk under way, times the share of its steps that are done.
      total: runs of the study.
      resumed: runs that an earlier start had finished.
      diverged: runs seen to diverge so far.
    """

    doing: str
    done: int
    underway: float
    total: int
    resumed: int
    diverged: int
