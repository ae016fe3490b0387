"""The tasks that studies train on, one file each."""

from optlab.lab.tasks.digits import digits
from optlab.lab.tasks.supervised import Split, accuracy, cross_entropy, supervised
from optlab.lab.tasks.task import Task

TASKS = {task.__name__: task for task in (digits,)}

__all__ = ["TASKS", "Split", "Task", "accuracy", "cross_entropy", "digits", "supervised"]
