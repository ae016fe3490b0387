"""optlab, an optimizer laboratory for JAX: optimizers built from atoms, and what moving one of them does."""

import typing

from optlab import aliases as aliases
from optlab.algebra import Rule, State, Transform, atom, chain, divide, draw, identity
from optlab.atoms import (
    absolute,
    accumulate,
    accumulate_nesterov,
    bias_correct,
    decayed_max,
    interpolate_ema,
    product,
    rms,
    root,
    running_max,
    running_sum,
    scale_by_belief,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_nesterov_ema,
    scale_by_rms,
    schedule,
    sign,
    square,
)
from optlab.atoms import masks as masks
from optlab.decay import (
    COUPLINGS,
    GATES,
    SITES,
    TARGETS,
    Decay,
    add_decayed_weights,
    add_l2_to_grad,
    decay_cautiously,
    decay_toward_init,
    divide_and_decay_stably,
    l2_penalty,
    shrink_after_step,
    shrink_proximally,
    shrink_weights,
)
from optlab.memory import apply_updates, kahan, keep_dtype, store
from optlab.memory import codecs as codecs
from optlab.optimizers import (
    adabelief,
    adagrad,
    adam,
    adam_l2,
    adamax,
    adams,
    adamw,
    adamw_independent,
    amsgrad,
    heavy_ball,
    laprop,
    lion,
    momentum,
    nadam,
    nesterov,
    rmsprop,
    sgd,
    sgdw,
    sign_sgd,
    signum,
)
from optlab.outside import extras
from optlab.outside.version import __version__ as __version__
from optlab.training import train_step

if typing.TYPE_CHECKING:
    from optlab.blackbox import check, identify
    from optlab.equations.comparison import compare
    from optlab.equations.explanation import explain

__getattr__ = extras.on_demand(
    __name__,
    {
        "check": "blackbox",
        "compare": "equations.comparison",
        "explain": "equations.explanation",
        "identify": "blackbox",
    },
    extra="explain",
)

__all__ = [
    "COUPLINGS",
    "GATES",
    "SITES",
    "TARGETS",
    "Decay",
    "Rule",
    "State",
    "Transform",
    "absolute",
    "accumulate",
    "accumulate_nesterov",
    "adabelief",
    "adagrad",
    "adam",
    "adam_l2",
    "adamax",
    "adams",
    "adamw",
    "adamw_independent",
    "add_decayed_weights",
    "add_l2_to_grad",
    "amsgrad",
    "apply_updates",
    "atom",
    "bias_correct",
    "chain",
    "decay_cautiously",
    "decay_toward_init",
    "decayed_max",
    "divide",
    "divide_and_decay_stably",
    "draw",
    "heavy_ball",
    "identity",
    "interpolate_ema",
    "kahan",
    "keep_dtype",
    "l2_penalty",
    "laprop",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "product",
    "rms",
    "rmsprop",
    "root",
    "running_max",
    "running_sum",
    "scale_by_belief",
    "scale_by_ema",
    "scale_by_learning_rate",
    "scale_by_nesterov_ema",
    "scale_by_rms",
    "schedule",
    "sgd",
    "sgdw",
    "shrink_after_step",
    "shrink_proximally",
    "shrink_weights",
    "sign",
    "sign_sgd",
    "signum",
    "square",
    "store",
    "train_step",
]
if extras.missing("explain") is None:  # without it a star import gives what is there
    __all__ += ["check", "compare", "explain", "identify"]
