"""Training with a transform."""

from optlab.training.step import train_step

__all__ = ["train_step"]
