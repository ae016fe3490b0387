"""What a study shows while it runs: a bar on a terminal, JSON lines for machines, nothing elsewhere."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from optlab.lab.progress import Progress

Show = Callable[[Progress], None]

_SECONDS_BETWEEN_LINES = 1.0


def print_json(event: str, **values: Any) -> None:
    """One line with one object; numbers that JSON has no word for are null."""
    print(json.dumps({"event": event, **_finite(values)}), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_lines() -> Show:
    """Prints the progress, then once a second at most, with the seconds left, null while nobody can know."""
    began, printed = time.monotonic(), -math.inf

    def show(progress: Progress) -> None:
        nonlocal printed
        if time.monotonic() - printed < _SECONDS_BETWEEN_LINES:
            return
        printed = time.monotonic()
        new = progress.done + progress.underway - progress.resumed
        left = progress.total - progress.done - progress.underway
        seconds = (time.monotonic() - began) / new * left if new else math.nan
        print_json("progress", **progress._asdict(), seconds_left=round(seconds, 1))

    return show


@contextlib.contextmanager
def bar() -> Iterator[Show]:
    """A bar on stderr, or in a notebook, with what is done, the time left and how many runs diverged; else nothing."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} runs, {task.fields[diverged]} diverged, left"),
        TimeRemainingColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
    )
    with Bar(
        *columns, console=console, disable=not (console.is_terminal or console.is_jupyter), transient=True
    ) as drawn:
        task = drawn.add_task("starting", total=None, diverged=0)

        def show(progress: Progress) -> None:
            drawn.update(
                task,
                total=progress.total,
                completed=progress.done + progress.underway,
                description=progress.doing or "starting",
                diverged=progress.diverged,
            )

        yield show


def beginning(show: Show, begin: Callable[[], None]) -> Show:
    """`show`, after `begin` the first time: when the study is accepted."""
    begun = False

    def shown(progress: Progress) -> None:
        nonlocal begun
        if not begun:
            begun = True
            begin()
        show(progress)

    return shown


def announcing(show: Show, folder: Path) -> Show:
    """`show`, after a line that says how much an earlier start has finished, if there was one."""

    def announce(progress: Progress) -> None:
        if progress.resumed and not progress.doing:
            say(f"continues in {folder}, where {progress.resumed} of {progress.total} runs are finished")
        show(progress)

    return announce


def say(text: str) -> None:
    """One line for people, beside the results."""
    print(f"optlab study: {text}", file=sys.stderr, flush=True)
