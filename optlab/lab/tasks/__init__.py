"""The tasks that studies train on, one file each."""

from optlab.lab.tasks.digits import digits
from optlab.lab.tasks.task import Task

TASKS = {"digits": digits}

__all__ = ["TASKS", "Task", "digits"]
