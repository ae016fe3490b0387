"""The laboratory: tasks, studies over grids, figures and reports. Needs the extra `lab`."""

try:
    from optlab.lab.engine import run
    from optlab.lab.errors import StudyError
    from optlab.lab.study import Study, read
    from optlab.lab.tasks import TASKS, Split, Task, supervised
except ModuleNotFoundError as error:
    message = f"optlab.lab needs {error.name}: pip install 'optlab[lab]'"
    raise ModuleNotFoundError(message, name=error.name) from None

__all__ = ["TASKS", "Split", "Study", "StudyError", "Task", "read", "run", "supervised"]
