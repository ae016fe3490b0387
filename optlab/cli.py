"""The command line: `optlab explain`, `compare`, `identify`, `study`, `report`, `bench`."""

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from optlab import __version__
from optlab.outside import extras

T = TypeVar("T")


class UsageError(Exception):
    """What the user asked for can't be done; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)", self.prog)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1e-3,1e-2") from None


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is empty")
    return Path(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="optlab", description="An optimizer laboratory for JAX.")
    parser.add_argument("--version", action="version", version=f"optlab {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="explain | compare | identify | study | report | bench")

    named = "adamw, optax.adamw, or package.module:factory"
    explain = commands.add_parser("explain", help="print the equations of an optimizer, and its regime in words")
    explain.add_argument("optimizer", help=named)
    explain.add_argument("--latex", action="store_true", help="print the equations as LaTeX instead")
    explain.set_defaults(run=_explain)

    compare = commands.add_parser("compare", help="prove two optimizers equal, or show where they part")
    compare.add_argument("optimizer", help=named)
    compare.add_argument("other", help=named)
    compare.add_argument("--steps", type=int, default=3, help="how many steps (default: 3)")
    compare.set_defaults(run=_compare)

    identify = commands.add_parser("identify", help="tell from outside what an optimizer is, torch.optim's too")
    identify.add_argument("optimizer", help="optax.adamw, torch.optim.AdamW, or package.module:make")
    identify.add_argument("--learning-rate", type=float, default=0.01, help="what it is driven at (default: 0.01)")
    identify.add_argument("--weight-decay", type=float, default=0.1, help="what it is driven at (default: 0.1)")
    identify.add_argument("--says", metavar="NAME", help="check that it is what this name means, such as adamw")
    identify.set_defaults(run=_identify)

    study = commands.add_parser("study", help="train over a grid of rates and decays, and write maps and a report")
    study.add_argument("study", metavar="NAME|FILE.toml", help="decay: where the weight decay of Adam acts; or a file")
    study.add_argument("--output", type=_folder, help="folder to write to (default: results/NAME)")
    study.add_argument("--overwrite", action="store_true", help="replace the results in the folder, finished or not")
    study.add_argument("--sites", type=_names, help="comma-separated places of the decay")
    study.add_argument("--learning-rates", type=_numbers, help="comma-separated")
    study.add_argument("--weight-decays", type=_numbers, help="comma-separated")
    study.add_argument("--seeds", type=int, help="runs per cell")
    study.add_argument("--steps", type=int, help="updates per run")
    study.add_argument("--memory", help="what the runs that are trained at once may take, such as 2GiB")
    study.add_argument("--json", action="store_true", help="print progress and results as one JSON object per line")
    study.add_argument("--coordinator", metavar="HOST:PORT", help="of jax.distributed: where process 0 is")
    study.add_argument("--processes", type=int, help="of jax.distributed: how many there are")
    study.add_argument("--process", type=int, help="of jax.distributed: which one this is, from 0")
    study.set_defaults(run=_study)

    report = commands.add_parser("report", help="draw the maps and the page of a results file again")
    report.add_argument("results", type=Path, help="a results.nc, or the folder that holds one")
    report.add_argument("--output", type=_folder, help="folder to write to (default: that of the results)")
    report.add_argument("--overwrite", action="store_true", help="replace the maps and the page that are there")
    report.set_defaults(run=_report)

    bench = commands.add_parser("bench", help="counts and times, against optax, torch and the loops that people write")
    bench.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="counts, compile, eager, step, state: AdamW against optax.adamw and torch.optim.AdamW (default: all of "
        "these); study: the engine against loops over a grid",
    )
    bench.add_argument("--repeats", type=int, default=15, help="times that each is taken, for the median (default: 15)")
    bench.add_argument("--json", type=Path, help="write the figures to this file too")
    bench.set_defaults(run=_bench)
    return parser


def _stop(signum: int, frame: Any) -> NoReturn:
    """Ends the process on Ctrl-C at once: files are replaced whole, so there is nothing to tidy up.

    An exception would be lost where JAX runs Python from within, and tearing the interpreter down around a running
    computation crashes.
    """
    del signum, frame
    show_cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""
    os.write(2, f"{show_cursor}optlab: stopped; no file is half written\n".encode())
    os._exit(130)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; gives 0, 2 after a request that can't be met, or 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command = "optlab"
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, _stop) if in_main_thread else None
    try:
        parser = _parser()
        options = parser.parse_args(argv)
        if options.command is None:
            parser.print_help()
            return 0
        command = f"optlab {options.command}"
        options.run(options, argv)
    except UsageError as error:
        message, prog = (*error.args, command)[:2]
        owner = prog.rpartition(" ")[2]
        print(f"{prog}: {message.removeprefix(f'{owner}: ')}", file=sys.stderr)
        return 2
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
    return 0


def _named(name: str) -> Any:
    import optlab
    from optlab.outside.names import UnknownName, resolve

    try:
        return resolve(name, optlab)
    except UnknownName as error:
        raise UsageError(str(error)) from None


def _needs(extra: str, command: str) -> None:
    try:
        extras.require(extra, command)
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from None


def _explain(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    _needs("explain", "explain")
    from optlab.equations.explanation import explain

    try:
        found = explain(_named(options.optimizer))
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    print(found.latex if options.latex else found.text)


def _compare(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    _needs("explain", "compare")
    from optlab.equations.comparison import compare

    try:
        print(compare(_named(options.optimizer), _named(options.other), options.steps))
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def _identify(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    _needs("explain", "identify")
    from optlab.blackbox import check, identify

    at = {"learning_rate": options.learning_rate, "weight_decay": options.weight_decay}
    box = _named(options.optimizer)
    try:
        print(identify(box, **at) if options.says is None else check(box, options.says, **at))
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def _study(options: argparse.Namespace, argv: Sequence[str]) -> None:
    _needs("lab", "study")
    _without_windows()
    from optlab.lab import display, engine, report
    from optlab.lab.errors import StudyError
    from optlab.lab.study import find, read

    changes = ("sites", "learning_rates", "weight_decays", "seeds", "steps", "memory")
    asked = {name: getattr(options, name) for name in changes if getattr(options, name) is not None}
    try:
        path = find(options.study)
        study = dataclasses.replace(read(path), **asked)
        folder = options.output or Path("results") / path.stem
        _start_devices(options)
        if options.process:
            _in_thread(lambda: engine.run(study, folder))
            return
        left_out = {str(structure): reason for structure, reason in study.refused().items()}

        def begin() -> None:
            if options.json:
                display.print_json("start", folder=str(folder), runs=study.runs(), left_out=left_out)
            else:
                for structure, reason in left_out.items():
                    display.say(f"left out: {structure} ({reason})")

        said = {"overwrite": options.overwrite, "command": shlex.join(["optlab", *argv])}
        with contextlib.nullcontext(display.json_lines()) if options.json else display.bar() as show:
            data = _in_thread(lambda: engine.run(study, folder, display.beginning(show, begin), **said))
        assert data is not None
        names = [name for name in report.file_names() if (folder / name).exists()]
    except StudyError as error:
        raise UsageError(str(error)) from None
    if options.json:
        display.print_json("done", folder=str(folder), files=names, best=_best(data))
    else:
        _print_best(data)
        print(f"\nwrote {', '.join(names)} to {folder}")


def _without_windows() -> None:
    """Has matplotlib draw to files alone."""
    import matplotlib

    matplotlib.use("agg")


def _one_device_per_core() -> None:
    """Has processors show one device per core: XLA's own threads keep fewer of them busy."""
    import jax

    from optlab.outside import system

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # a backend is there already, with its devices
            jax.config.update("jax_num_cpu_devices", system.cores())


def _start_devices(options: argparse.Namespace) -> None:
    """The devices of this process, and the other processes if there are any."""
    import jax

    _one_device_per_core()
    place = {
        "coordinator_address": options.coordinator,
        "num_processes": options.processes,
        "process_id": options.process,
    }
    if any(value is not None for value in place.values()):
        if any(value is None for value in place.values()):
            raise UsageError("--coordinator, --processes and --process belong together")
        try:
            _in_thread(lambda: jax.distributed.initialize(**place))
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"the processes don't find each other: {str(error).splitlines()[0]}") from None


def _in_thread(call: Callable[[], T]) -> T:
    """The result of `call`, computed in a thread, so that this one hears Ctrl-C."""
    with ThreadPoolExecutor(1) as worker:
        future = worker.submit(call)
        while not future.done():
            wait([future], timeout=0.2)
        return future.result()


def _best(data: Any) -> list[dict[str, Any]]:
    """The best cells as JSON has them."""
    from optlab.lab.results import best_cells

    def plain(value: Any) -> Any:
        return value._asdict() if hasattr(value, "_asdict") else value

    return [{key: plain(value) for key, value in cell._asdict().items()} for cell in best_cells(data)]


def _print_best(data: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from optlab.lab.results import best_cells, title

    reported = data.attrs["reported"]
    table = Table(title=f"Best cell of every structure, {data.sizes['seed']} seeds")
    for heading in ("decay", "learning rate", "weight decay", title(reported), "against none", "diverged runs"):
        table.add_column(heading, justify="left" if heading == "decay" else "right")
    for cell in best_cells(data):
        decay = "" if cell.site == "none" else f"{cell.weight_decay:g}"
        against = "" if cell.against_none is None else cell.against_none.text(reported)
        diverged = f"{100 * cell.diverged_share:.0f}%"
        table.add_row(cell.structure, f"{cell.learning_rate:g}", decay, cell.reported.text(reported), against, diverged)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _report(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    _needs("lab", "report")
    _without_windows()
    from optlab.lab import report, results
    from optlab.lab.errors import StudyError

    path = options.results / results.FILE if options.results.is_dir() else options.results
    folder = options.output or path.parent
    try:
        data = results.load(path)
        report.prepare(folder, options.overwrite, report.file_names()[1:])
        names = report.render(data, folder)
    except StudyError as error:
        raise UsageError(str(error)) from None
    print(f"wrote {', '.join(names)} to {folder}")


def _bench(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    if options.json:
        try:
            options.json.open("a").close()
        except OSError as error:
            raise UsageError(f"{options.json} can't be written: {error.strerror}") from None
    from optlab.bench import PARTS, measure, table

    if unknown := [part for part in options.parts if part not in (*PARTS, "study")]:
        raise UsageError(f"there is no part {unknown[0]!r}; give some of {', '.join(PARTS)}, study")
    if options.repeats < 1:
        raise UsageError(f"repeats must be a whole number from 1, got {options.repeats}")
    figures: dict[str, Any] = {}
    if "study" in options.parts:
        _needs("lab", "bench study")
        _one_device_per_core()
        from optlab.bench import grid

        figures["study"] = grid.compare()
        print(grid.table(figures["study"]), end="\n\n")
    if parts := [part for part in options.parts or PARTS if part in PARTS]:
        figures |= measure(parts, options.repeats)
        print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
