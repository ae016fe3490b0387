"""The learning rate."""

from typing import Any

from optlab.algebra.hyperparameters import ScalarOrSchedule, at_step, like
from optlab.algebra.rules import Rule, Slots
from optlab.algebra.transform import atom


@atom
def scale_by_learning_rate(learning_rate: ScalarOrSchedule) -> Rule:
    """`u -> -learning_rate(t - 1) * u`: the step that descends, to be added to the weights.

    Args:
      learning_rate: >= 0; a number or an optax schedule, which counts steps from 0.

    Raises:
      ValueError: the schedule gives something else than one number per step.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return -like(at_step("scale_by_learning_rate", learning_rate, t), u) * u, slots

    return Rule(update, descends=True)
