"""The cores by name: what makes a direction of the gradient in the optimizer of that name, before decay and rate."""

import inspect
from collections.abc import Callable, Mapping

from optlab.algebra.combinators import identity
from optlab.algebra.transform import Transform
from optlab.atoms.averages import accumulate, accumulate_nesterov, scale_by_ema
from optlab.atoms.second_moments import scale_by_belief, sign
from optlab.optimizers.adam_family import adam, adam_core
from optlab.optimizers.adam_variants import (
    adabelief,
    adamax,
    adamax_core,
    amsgrad,
    amsgrad_core,
    laprop,
    laprop_core,
    nadam,
    nadam_core,
)
from optlab.optimizers.adaptive import adagrad, adagrad_core, rmsprop, rmsprop_core
from optlab.optimizers.descent import heavy_ball, momentum, nesterov, sgd
from optlab.optimizers.signs import lion, lion_core, sign_sgd, signum, signum_core

_CORE_OF: Mapping[Callable[..., Transform], Callable[..., Transform]] = {
    adam: adam_core,
    amsgrad: amsgrad_core,
    laprop: laprop_core,
    lion: lion_core,
    momentum: lambda b1: scale_by_ema(b1),
    rmsprop: rmsprop_core,
    sgd: identity,
    adabelief: scale_by_belief,
    adagrad: adagrad_core,
    adamax: adamax_core,
    heavy_ball: lambda b1: accumulate(b1),
    nadam: nadam_core,
    nesterov: lambda b1: accumulate_nesterov(b1),
    sign_sgd: sign,
    signum: signum_core,
}

CORES: Mapping[str, Callable[..., Transform]] = {optimizer.__name__: core for optimizer, core in _CORE_OF.items()}


def hyperparameters(name: str) -> dict[str, float | None]:
    """What the core of this name takes, with the defaults of the optimizer; None for what has to be chosen.

    The decay of a second moment is `b2` here, which `rmsprop` calls `decay`.
    """
    (optimizer,) = (optimizer for optimizer in _CORE_OF if optimizer.__name__ == name)
    defaults, taken = (inspect.signature(function).parameters for function in (optimizer, _CORE_OF[optimizer]))
    return {key: defaults[key].default if key in defaults else None for key in taken}
