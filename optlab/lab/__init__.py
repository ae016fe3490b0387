"""The laboratory: tasks, studies over grids, figures and reports. Needs the extra `lab`."""

from optlab.lab.engine import run
from optlab.lab.study import Study, StudyError, read
from optlab.lab.tasks import TASKS, Split, Task, supervised

__all__ = ["TASKS", "Split", "Study", "StudyError", "Task", "read", "run", "supervised"]
