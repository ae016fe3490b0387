"""What holds weights back: the links, their gates and targets, the penalty, and the sites where they stand."""

from optlab.decay.gates import decay_cautiously
from optlab.decay.links import (
    add_decayed_weights,
    add_l2_to_grad,
    shrink_after_step,
    shrink_proximally,
    shrink_weights,
)
from optlab.decay.penalty import l2_penalty
from optlab.decay.sites import COUPLINGS, GATES, SITES, TARGETS, Decay
from optlab.decay.stable import divide_and_decay_stably
from optlab.decay.targets import decay_toward_init

__all__ = [
    "COUPLINGS",
    "GATES",
    "SITES",
    "TARGETS",
    "Decay",
    "add_decayed_weights",
    "add_l2_to_grad",
    "decay_cautiously",
    "decay_toward_init",
    "divide_and_decay_stably",
    "l2_penalty",
    "shrink_after_step",
    "shrink_proximally",
    "shrink_weights",
]
