"""The small transforms: averages, second moments, the learning rate, products and schedules as hyperparameters."""

from optlab.atoms.averages import (
    accumulate,
    accumulate_nesterov,
    bias_correct,
    interpolate_ema,
    scale_by_ema,
    scale_by_nesterov_ema,
)
from optlab.atoms.products import product
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.schedules import schedule
from optlab.atoms.second_moments import (
    absolute,
    decayed_max,
    rms,
    root,
    running_max,
    running_sum,
    scale_by_belief,
    scale_by_rms,
    sign,
    square,
)

__all__ = [
    "absolute",
    "accumulate",
    "accumulate_nesterov",
    "bias_correct",
    "decayed_max",
    "interpolate_ema",
    "product",
    "rms",
    "root",
    "running_max",
    "running_sum",
    "scale_by_belief",
    "scale_by_ema",
    "scale_by_learning_rate",
    "scale_by_nesterov_ema",
    "scale_by_rms",
    "schedule",
    "sign",
    "square",
]
