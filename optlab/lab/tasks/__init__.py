"""The tasks that studies train on, one file each."""

from optlab.lab.tasks.addition import modular
from optlab.lab.tasks.handwriting import digits
from optlab.lab.tasks.handwriting_conv import digits_conv
from optlab.lab.tasks.handwriting_dense import digits_dense
from optlab.lab.tasks.landscapes import beale, quadratic, rosenbrock
from optlab.lab.tasks.language import python_lm, python_lm_small
from optlab.lab.tasks.supervision import Split, accuracy, cross_entropy, supervised
from optlab.lab.tasks.task import Task

TASKS = {
    task.__name__: task
    for task in (digits, digits_conv, digits_dense, python_lm, python_lm_small, modular, rosenbrock, beale, quadratic)
}

__all__ = [
    "TASKS",
    "Split",
    "Task",
    "accuracy",
    "beale",
    "cross_entropy",
    "digits",
    "digits_conv",
    "digits_dense",
    "modular",
    "python_lm",
    "python_lm_small",
    "quadratic",
    "rosenbrock",
    "supervised",
]
