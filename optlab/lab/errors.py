"""The exception of the lab."""


class StudyError(ValueError):
    """A study that can't be run as asked; the message is one line for the user."""
