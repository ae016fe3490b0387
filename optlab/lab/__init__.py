"""The laboratory: tasks, studies over grids, figures and reports. Needs the extra `lab`."""

from optlab.outside import extras

extras.require("lab", __name__)

from optlab.lab.engine import run  # noqa: E402
from optlab.lab.errors import StudyError  # noqa: E402
from optlab.lab.study import Study, read  # noqa: E402
from optlab.lab.tasks import TASKS, Split, Task, supervised  # noqa: E402

__all__ = ["TASKS", "Split", "Study", "StudyError", "Task", "read", "run", "supervised"]
