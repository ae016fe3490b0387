"""The laboratory: tasks, studies over grids, figures and reports. Needs the extra `lab`."""

from optlab import extras

extras.require("lab", __name__)

from optlab.lab.engine import run  # noqa: E402
from optlab.lab.study import Study, StudyError, read  # noqa: E402
from optlab.lab.tasks import TASKS, Split, Task, supervised  # noqa: E402

__all__ = ["TASKS", "Split", "Study", "StudyError", "Task", "read", "run", "supervised"]
