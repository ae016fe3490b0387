"""The optimizers, one expression each, by family; what makes their directions, by name, is in `cores`."""

from optlab.optimizers.adam_family import adam, adam_l2, adams, adamw, adamw_independent
from optlab.optimizers.adam_variants import adabelief, adamax, amsgrad, laprop, nadam
from optlab.optimizers.adaptive import adagrad, rmsprop
from optlab.optimizers.descent import heavy_ball, momentum, nesterov, sgd, sgdw
from optlab.optimizers.signs import lion, sign_sgd, signum

__all__ = [
    "adabelief",
    "adagrad",
    "adam",
    "adam_l2",
    "adamax",
    "adams",
    "adamw",
    "adamw_independent",
    "amsgrad",
    "heavy_ball",
    "laprop",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "rmsprop",
    "sgd",
    "sgdw",
    "sign_sgd",
    "signum",
]
