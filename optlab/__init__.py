"""optlab, an optimizer laboratory for JAX: optimizers built from atoms, and what moving one of them does."""

import typing

from optlab import codecs as codecs
from optlab import extras
from optlab.algebra import chain, divide, identity
from optlab.decay import (
    add_decayed_weights,
    add_l2_to_grad,
    shrink_after_step,
    shrink_proximally,
    shrink_weights,
)
from optlab.draw import draw
from optlab.ema import (
    accumulate,
    accumulate_nesterov,
    bias_correct,
    interpolate_ema,
    scale_by_ema,
    scale_by_nesterov_ema,
)
from optlab.gate import decay_cautiously
from optlab.lifting import Rule, State
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
from optlab.penalty import l2_penalty
from optlab.product import product
from optlab.rate import scale_by_learning_rate
from optlab.rms import (
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
from optlab.rounding import apply_updates, kahan
from optlab.sites import COUPLINGS, GATES, SITES, TARGETS, Decay
from optlab.stable import divide_and_decay_stably
from optlab.step import train_step
from optlab.store import store
from optlab.target import decay_toward_init
from optlab.transform import Transform, atom

if typing.TYPE_CHECKING:
    from optlab.blackbox import check, identify
    from optlab.equations.comparison import compare
    from optlab.equations.explanation import explain

__version__ = "0.1.0"

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
