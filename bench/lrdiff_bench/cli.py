"""The ``lrdiff`` command. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from lrdiff_core.config import RunConfig

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="lrdiff",
    help="Train at different learning rates, measure what that costs and gains, ship a proven ONNX file.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Enum-like choices are checked by the configuration, so that every wrong value gets the same kind of message.
ConfigFile = Annotated[str | None, typer.Argument(metavar="[CONFIG.toml]", help="Settings; left out: preset seed.")]
DataOption = Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="CSV, Parquet or Arrow file, or seed, breast_cancer, digits, wine.")]  # fmt: skip # noqa: E501
TargetOption = Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="TASK", help="auto, binary, multiclass or regression.")]  # fmt: skip # noqa: E501
ImputeOption = Annotated[str | None, typer.Option("--impute", metavar="HOW", help="Missing values: none, mean, median or drop.")]  # fmt: skip # noqa: E501
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run folder [runs/NAME].")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Fixes split, weights and order.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read by main() before the command runs; declared here so that --help shows it."""


@app.command()
def run(
    config: ConfigFile = None,
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    impute: ImputeOption = None,
    out: OutOption = None,
    device: DeviceOption = None,
    compile: CompileOption = False,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> int:
    """Do the whole job: train, compare with single rates, time, export, prove."""
    settings = _settings(config, data, target, task, impute, device, compile, seed)
    return _job(settings, out, json, stages=None)


@app.command()
def train(
    config: ConfigFile = None,
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    impute: ImputeOption = None,
    out: OutOption = None,
    device: DeviceOption = None,
    compile: CompileOption = False,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> int:
    """Train and keep the checkpoint; no comparison, no export."""
    settings = _settings(config, data, target, task, impute, device, compile, seed)
    return _job(settings, out, json, stages=())


@app.command()
def predict(
    run: RunFolder,
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="Rows to predict: CSV, Parquet or Arrow.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="CSV to write [stdout].")] = None,
) -> None:
    """Predict the rows of a file with a trained run."""
    from lrdiff_bench.use import predict_file

    text = predict_file(run, data)
    if out is None:
        _write(text)
    else:
        from lrdiff_core.files import write_text

        write_text(out, text)


@app.command()
def export(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write [RUN/model.onnx].")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Export a run's model to ONNX; the file appears only after it is verified."""
    from lrdiff_bench.use import export_run

    return _show(export_run(run, out), "export", json)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The file to check.")],
    run: Annotated[Path, typer.Option("--run", metavar="RUN", help="The run it must agree with.")],
    json: JsonOption = False,
) -> int:
    """Check an ONNX file against the model of a run."""
    from lrdiff_bench.use import verify_against_run

    return _show(verify_against_run(model, run), "verify", json)


@app.command()
def trace(run: RunFolder, json: JsonOption = False) -> None:
    """Show the stages of a run again, from its folder."""
    from lrdiff_bench.use import retrace

    summary = retrace(run)
    if json:
        _print_json(summary)
        return
    from lrdiff_bench.screen import DRAW, TITLES, heading, make_console

    console = make_console()
    for number, name in enumerate((name for name in TITLES if name in summary), start=1):
        heading(console, number, name)
        DRAW[name](console, summary[name])


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Say what can be used here and why not: versions, devices, compiler, runtimes."""
    from lrdiff_bench.doctor import diagnose, draw

    report = diagnose()
    if json:
        _print_json(report)
    else:
        draw(report)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status; the entry point of the ``lrdiff`` script.

    Exit status: 0 done and every check held, 1 a check failed, 2 wrong input or usage, 3 not available here, 130
    interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # typer carries its own copy of click's classes or shares click's, by version; this is its UsageError either way.
    usage_error: Any = typer.BadParameter.__mro__[1]
    try:
        status = app(given or ["--help"], standalone_mode=False, prog_name="lrdiff")
        sys.stdout.flush()
    except usage_error as problem:
        return _fail(problem.format_message(), _usage_help(problem), 2)
    except BrokenPipeError:
        _reader_left()
    except Exception as problem:
        from lrdiff_core.errors import LrdiffError

        if debug or not isinstance(problem, LrdiffError):
            raise
        return _fail(problem.message, problem.help, problem.exit_status)
    if status == INTERRUPTED:  # typer turns Ctrl-C into it
        return _fail("interrupted", "nothing was left half-written; start it again when you like", INTERRUPTED)
    return status if isinstance(status, int) else 0


def _write(text: str) -> None:
    """Write to stdout; a reader that left, as in ``lrdiff predict ... | head``, ends the command without an error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_left()


def _reader_left() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
    sys.exit(0)


def _fail(message: str, help: str, status: int) -> int:
    one_line = " ".join(message.split())
    print(f"error: {one_line}\nhelp: {' '.join(help.split())}", file=sys.stderr)
    return status


def _usage_help(problem: Any) -> str:
    context = getattr(problem, "ctx", None)
    return f"see `{context.command_path if context is not None else 'lrdiff'} --help`"


def _settings(
    config: str | None,
    data: str | None,
    target: str | None,
    task: str | None,
    impute: str | None,
    device: str | None,
    compile: bool,
    seed: int | None,
) -> RunConfig:
    from lrdiff_bench.settings import gather

    options = {"data": data, "target": target, "task": task, "impute": impute, "device": device, "seed": seed}
    given = {key: value for key, value in options.items() if value is not None}
    return gather(config, given | ({"compile": True} if compile else {}))


def _job(config: RunConfig, out: Path | None, json: bool, *, stages: tuple[str, ...] | None) -> int:
    from lrdiff_bench.job import STAGES, run_job
    from lrdiff_bench.screen import Screen, make_console

    # With --json the stages still show, but on stderr.
    screen = Screen(make_console(stderr=json))
    try:
        result = run_job(config, out=out, stages=STAGES if stages is None else stages, watcher=screen)
    finally:
        screen.close()
    if json:
        _print_json(result.summary)
    if result.passed:
        return 0
    failed = ", ".join(name for name, held in result.summary["checks"].items() if not held)
    return _fail(f"a check failed: {failed}", f"see verification.json and parity.json in {result.folder}", 1)


def _show(report: dict[str, Any], name: str, json: bool) -> int:
    if json:
        _print_json(report)
    else:
        from lrdiff_bench.screen import DRAW, make_console

        DRAW[name](make_console(), report)
    return 0 if report["passed"] else 1


def _print_json(document: dict[str, Any]) -> None:
    import json

    from lrdiff_bench.run_folder import json_ready

    _write(json.dumps(json_ready(document), indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
