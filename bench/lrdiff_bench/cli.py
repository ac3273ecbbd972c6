"""The ``lrdiff`` command. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, TextIO, cast

import typer

from lrdiff_bench.lesson.command import add_lesson_command
from lrdiff_bench.maps.command import add_map_command
from lrdiff_bench.measure.options import BenchGroup, add_bench_commands
from lrdiff_bench.parity.options import add_parity_command
from lrdiff_bench.report.help import HELP_NAMES, WholeHelpGroup
from lrdiff_bench.report.json import print_json
from lrdiff_bench.study.options import add_study_commands

if TYPE_CHECKING:
    from lrdiff_core.config import RunConfig

__all__ = ["app", "main"]

INTERRUPTED = 130
_LONGEST = 300  # characters of an error that is not ours


class Commands(WholeHelpGroup):
    """The commands by what people do."""

    headings: ClassVar = {
        "Train": ("init", "run", "train", "predict", "rates", "lr-find"),
        "Measure": ("study", "map", "bench"),
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
    help="Measure speed on this machine.\n\nName cases, or one of these commands.",
    context_settings=HELP_NAMES,
    rich_markup_mode=None,
)
add_bench_commands(bench_app)
app.add_typer(bench_app, name="bench")
add_study_commands(app)
add_map_command(app)
add_lesson_command(app)
add_parity_command(app)

# Enum-like choices are checked by the configuration, so that every wrong value gets the same kind of message.
ConfigFile = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG.toml]", help="A file of settings, or the name of a preset. Without it, the preset seed."
    ),
]
DataOption = Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="A CSV, Parquet or Arrow file, or a built-in table: seed, breast_cancer, digits, wine.")]  # fmt: skip
TargetOption = Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="TASK", help="auto, binary, multiclass or regression.")]  # fmt: skip
ImputeOption = Annotated[str | None, typer.Option("--impute", metavar="HOW", help="What to do with missing values: none (refuse them), mean, median or drop.")]  # fmt: skip
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The run folder. Default: runs/NAME, or runs/NAME-2 and so on where there are runs already.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="Train with torch.compile.")]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="The seed of the split, the first weights and the order of rows."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


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
def run(
    config: ConfigFile = None,
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    impute: ImputeOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    compile: CompileOption = False,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> int:
    """Do the whole job: train, compare with single rates, time, export and verify."""
    settings = _settings(config, data, target, task, impute, device, compile, seed)
    return _job(settings, out, json, overwrite=overwrite, stages=None)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE.toml]", help="The file to write.")] = Path("lrdiff.toml"),
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a settings file with every setting explained, for `lrdiff run FILE.toml`."""
    from lrdiff_bench.system.settings import write_settings

    write_settings(file, {"data": data, "target": target, "task": task}, overwrite=overwrite)
    _write(f"wrote {file}; now: lrdiff run {file}\n")


@app.command()
def train(
    config: ConfigFile = None,
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    impute: ImputeOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    compile: CompileOption = False,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> int:
    """Train and save the checkpoint, without comparison and export."""
    settings = _settings(config, data, target, task, impute, device, compile, seed)
    return _job(settings, out, json, overwrite=overwrite, stages=())


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL.onnx", help="A run folder, or an ONNX file exported from one.")],
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="Rows to predict: CSV, Parquet or Arrow.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The CSV file to write. Default: standard output.")] = None,
) -> None:  # fmt: skip
    """Predict the rows of a file with a trained run or an exported ONNX file."""
    if run.suffix == ".onnx":
        from lrdiff_bench.run.export_command import predict_onnx

        text = predict_onnx(run, data)
    else:
        from lrdiff_bench.run.open_run import predict_file

        text = predict_file(run, data)
    if out is None:
        _write(text)
    else:
        from lrdiff_core.files import write_text

        write_text(out, text)


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_MODULE:FACTORY", help="A run folder, or a factory of your own module and an example.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The file to write. Default: RUN/model.onnx.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", metavar="NAME", help="A runtime that must be able to read the file; `lrdiff targets` lists them.")] = None,
    variant: Annotated[str, typer.Option("--variant", metavar="LIST", help="Files to write, separated by commas: fp32, fp16, int8, int8-qdq.")] = "fp32",
    opset: Annotated[int | None, typer.Option("--opset", metavar="N", help="The ONNX operator set. Default: the newest that the target reads.")] = None,
    allow: Annotated[list[str] | None, typer.Option("--allow", metavar="K=V", help="How much a variant may lose, such as snr_db=20, flipped=0.02 or score_drop=0.01.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", metavar="DIR_OR_ZIP", help="Write the file with its proof: golden rows, model card, verifiers, snippets.")] = None,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY.pem", help="Sign the bundle with this private key.")] = None,
    ports: Annotated[Path | None, typer.Option("--ports", metavar="FILE.toml", help="What may stand in inputs: ranges, categories, lengths.")] = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Export a run or your own model to ONNX; the file is written only after it passes verification."""
    from lrdiff_bench.run.export_command import export_model

    variants = variant.split(",")
    report = export_model(
        source,
        out,
        target=runtime,
        variants=variants,
        opset=opset,
        allow=allow or (),
        bundle=bundle,
        sign=sign,
        ports=ports,
    )
    return _show(report, "export", json)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|BUNDLE", help="The file, or bundle, to check.")],
    run: Annotated[Path | None, typer.Option("--run", metavar="RUN", help="The run it must agree with. Default: the golden vectors beside the file.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", metavar="NAME", help="The runtime for golden vectors: onnxruntime, openvino or node.")] = "onnxruntime",
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Check that an ONNX file predicts what its run, or the golden vectors beside it, say; or check a whole bundle."""
    from lrdiff_bench.run.export_command import verify_model

    return _show(verify_model(model, run, runtime), "verify" if run else "golden", json)


@app.command()
def latency(
    run: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL.onnx", help="A run folder with a model.onnx, or a file with golden vectors.")],
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="The execution provider. Default: CPUExecutionProvider.")] = None,
    threads: Annotated[str, typer.Option("--threads", metavar="LIST", help="Thread counts, separated by commas.")] = "1",
    batch: Annotated[str, typer.Option("--batch", metavar="LIST", help="Numbers of rows in a call, separated by commas.")] = "1,32,1024",
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Time single calls of an ONNX file: median, 95th and 99th percentile."""
    from lrdiff_bench.run.export_command import latency as measure, whole_numbers

    counts, batches = whole_numbers("--threads", threads), whole_numbers("--batch", batch)
    return _show({**measure(run, threads=counts, batches=batches, provider=provider), "passed": True}, "latency", json)


@app.command()
def targets(json: JsonOption = False) -> int:
    """List the runtimes that a file can be exported for, and the ONNX versions they read."""
    from lrdiff_bench.run.export_command import list_targets

    return _show({"targets": list_targets(), "passed": True}, "targets", json)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder that holds the runs.")] = Path("runs"),
    json: JsonOption = False,
) -> None:
    """List the runs in a folder, oldest first, with their test results."""
    from lrdiff_bench.run.open_run import list_runs

    found = list_runs(folder)
    if json:
        print_json({"format": "lrdiff.runs", "version": 1, "runs": found})
        return
    from lrdiff_bench.report.tables import make_console
    from lrdiff_bench.run.screen import draw_runs

    draw_runs(make_console(), folder, found)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Runs, maps, studies, benchmark records (runs/bench), parity results, or a rates.json.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The page to write. Default: report.html in the folder, or here for several.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:  # fmt: skip
    """Write one self-contained HTML page of any runs, maps, studies, benchmarks and parity results."""
    from lrdiff_bench.pages import write_report

    file = write_report(folders, out)
    _write(f"wrote {file}\n")
    if open_:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())


@app.command()
def trace(run: RunFolder, json: JsonOption = False) -> None:
    """Show the screen of a finished run again."""
    from lrdiff_bench.run.open_run import retrace

    summary = retrace(run)
    if json:
        print_json(summary)
        return
    from lrdiff_bench.report.tables import heading, make_console
    from lrdiff_bench.run.screen import DRAW, TITLES

    console = make_console()
    for number, name in enumerate((name for name in TITLES if name in summary), start=1):
        heading(console, number, TITLES[name])
        DRAW[name](console, summary[name])


@app.command()
def rates(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_MODULE:FACTORY", help="A run folder, or a factory of your own model that can be imported from this folder.")],
    lr: Annotated[float | None, typer.Option("--lr", metavar="R", help="The base learning rate. Default: 0.001.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", metavar="W", help="The weight decay of all parameters. Default: 0.")] = None,
    rule: Annotated[list[str] | None, typer.Option("--rule", metavar="RULE", help='A rule such as "head.* lr=0.01". Give several; for each setting, the first that matches wins.')] = None,
    layer_decay: Annotated[float | None, typer.Option("--layer-decay", metavar="D", help="The factor between the rate of a layer and that of the layer below it.")] = None,
    slices: Annotated[str | None, typer.Option("--slices", metavar="LO:HI", help="The fractions of the base rate for the first and the last layer.")] = None,
    head_multiplier: Annotated[float | None, typer.Option("--head-multiplier", metavar="M", help="The factor for the rate of the head.")] = None,
    head: Annotated[str | None, typer.Option("--head", metavar="PATTERN", help="The parameters of the head, where it is not the last layer.")] = None,
    layers: Annotated[list[str] | None, typer.Option("--layers", metavar="NAME", help="The module that holds the blocks, or each layer by repeating the option.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="block|stage", help="What counts as a layer: a block or a stage, numbered as timm does.")] = None,
    no_weight_decay: Annotated[list[str] | None, typer.Option("--no-weight-decay", metavar="PATTERN", help="Parameters without weight decay: 1d (biases and norms) or a pattern. Give several.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List parameter names, shapes, modules and depths instead of rates.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Show every parameter, also those of equal blocks.")] = False,
    json: JsonOption = False,
    diff: Annotated[Path | None, typer.Option("--diff", metavar="OTHER", help="Show what changed compared with this run or rates.json.")] = None,
) -> None:  # fmt: skip
    """Show the learning rate of every parameter of a run or of your own model."""
    from lrdiff_bench.run.rates_command import list_table, load_model, parameter_rows, plan_of, plan_text, read_plan

    if list_:
        rows, reason = parameter_rows(load_model(target), layers or ())
        if json:
            print_json({"parameters": rows, "no_depths": reason})
        else:
            _write(list_table(rows, reason) + "\n")
        return
    given = {
        "lr": lr, "weight_decay": weight_decay, "rules": rule, "layer_decay": layer_decay, "slices": slices,
        "head_multiplier": head_multiplier, "head": head, "layers": layers, "by": by,
        "no_weight_decay": no_weight_decay,
    }  # fmt: skip
    plan = plan_of(target, {name: value for name, value in given.items() if value is not None and value != []})
    shown = plan if diff is None else read_plan(diff).diff(plan)
    if json:
        print_json(shown.to_dict())
    else:
        _write(f"{shown if diff is not None else plan_text(plan, full=full)}\n")


@app.command("lr-find")
def lr_find(
    target: Annotated[str | None, typer.Argument(metavar="[RUN|CONFIG.toml|MODULE:FACTORY]", help="A run folder, a file of settings or a factory of your own model. Default: the preset seed.")] = None,
    each: Annotated[bool, typer.Option("--each", help="Sweep the rate of each group separately, with the other groups fixed.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder for the results. Default: the run, or runs/NAME-lr-find.")] = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Run a learning-rate range test, suggest rates and draw the loss against the rate."""
    from lrdiff_bench.run.lr_find_command import as_text, range_test

    found, files = range_test(target, each=each, out=out)
    if json:
        print_json(found.to_dict() | {"files": list(map(str, files))})
    else:
        _write(as_text(found, files) + "\n")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def audit(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.py", help="The training script; it runs as with `python SCRIPT.py`.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="Arguments of the script.")] = None,
    every: Annotated[int, typer.Option("--every", metavar="N", min=1, help="Inspect the weights at the first three steps, then at every N-th.")] = 50,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Run your training script unchanged and report which rate, decay and update rule each parameter really got."""
    from lrdiff_bench.run.audit_command import audit_script

    report = audit_script(script, arguments or (), every=every, quiet=json)
    if json:
        print_json(report.to_dict())
    else:
        _write(f"{report}\n")
    return 0 if report.passed else 1


@bench_app.command("step")
def bench_step(
    peers: Annotated[bool, typer.Option("--peers", help="Compare with PyTorch's own optimizers and those of other libraries, too.")] = False,
    training: Annotated[bool, typer.Option("--training", help="Time whole training steps of small models instead: the optimizer's share, and what a faster one gains.")] = False,
    shape: Annotated[list[str] | None, typer.Option("--shape", metavar="NAME", help="Measure only this shape: mlp, transformer, many or bert; with --training, this model. Give several.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="The number of threads. Default: 1, then 2.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Six rounds per row and no bert: only a check that it works.")] = False,
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.md", help="Write the table to this file as well.")] = None,
) -> int:  # fmt: skip
    """Time the optimizer step with many rates against one rate; with --peers, against other optimizers."""
    if training:
        from lrdiff_bench.measure.cases.training_table import run_training_table

        document, text = run_training_table(models=shape, threads=threads, quick=quick, out=out)
    else:
        from lrdiff_bench.measure.cases.step_table import run_table

        document, text = run_table(peers=peers, shapes=shape, threads=threads, quick=quick, out=out)
    if json:
        print_json(document)
    else:
        _write(text)
    missed = [row for row in document["rows"] if row.get("verdict") == "missed"]
    return 1 if missed and not quick else 0  # six rounds on a busy machine fail nothing


@app.command()
def doctor(
    install_javascript: Annotated[bool, typer.Option("--install-javascript", help="First install ONNX Runtime's JavaScript packages with npm into your cache folder.")] = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Show what works on this machine: versions, devices, compiler, runtimes, and why something does not."""
    from lrdiff_bench.doctor import diagnose, draw

    if install_javascript:
        from lrdiff_export.runtimes.javascript.install import install_javascript as install

        install()
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
        sys.stdout = cast(TextIO, _Watched(stdout))
    try:
        return _run(sys.argv[1:])
    finally:
        sys.argv, sys.stdout = before, stdout


class _Watched:
    """Standard output that remembers whether a document was written: with ``--json`` an error is one, too."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.wrote = stream, False

    def write(self, text: str) -> int:
        self.wrote = True
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _run(given: list[str]) -> int:
    debug = "--debug" in given
    # typer carries its own copy of click's classes or shares click's, by version; this is its UsageError either way.
    usage_error: Any = typer.BadParameter.__mro__[1]
    try:
        status = app(given or ["--help"], standalone_mode=False, prog_name="lrdiff")
        sys.stdout.flush()
    except usage_error as problem:
        return _fail(problem.format_message(), _usage_help(problem), 2)
    except BrokenPipeError:  # as in `lrdiff predict ... | head`: it ends the command without an error
        _reader_left()
    except Exception as problem:
        from lrdiff_core.errors import LrdiffError

        if debug:
            raise
        if isinstance(problem, LrdiffError):
            return _fail(problem.message, problem.help, problem.exit_status)
        if isinstance(problem, OSError):
            where = f"{problem.filename}: " if problem.filename else ""
            return _fail(
                f"{where}{problem.strerror or problem}", "nothing was left half-written; correct it and run again", 2
            )
        if isinstance(problem, UnicodeEncodeError):
            return _fail(
                f"the output is in {problem.encoding}, which has no character {problem.object[problem.start]!a}",
                "set PYTHONUTF8=1, or write to a file with --out",
                2,
            )
        if isinstance(problem, MemoryError):
            return _fail("there is not enough memory", "use fewer rows or columns, or smaller layers", 2)
        what = f"{type(problem).__name__}: {problem}"
        return _fail(f"a fault in lrdiff, {what[:_LONGEST]}", "`lrdiff --debug ...` shows the traceback; report it", 1)
    if status == INTERRUPTED:  # typer turns Ctrl-C into it
        return _fail("interrupted", "nothing was left half-written; start it again when you like", INTERRUPTED)
    return status if isinstance(status, int) else 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _reader_left() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
    sys.exit(0)


def _fail(message: str, help: str, status: int) -> int:
    message, help = " ".join(message.split()), " ".join(help.split())
    print(f"error: {message}\nhelp: {help}", file=sys.stderr)
    if isinstance(sys.stdout, _Watched) and not sys.stdout.wrote:
        error = {"message": message, "help": help, "status": status}
        from lrdiff_bench.report.json import print_json

        print_json({"format": "lrdiff.error", "version": 1, "error": error})
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
    from lrdiff_bench.system.settings import gather

    options = {"data": data, "target": target, "task": task, "impute": impute, "device": device, "seed": seed}
    given = {key: value for key, value in options.items() if value is not None}
    return gather(config, given | ({"compile": True} if compile else {}))


def _job(config: RunConfig, out: Path | None, json: bool, *, overwrite: bool, stages: tuple[str, ...] | None) -> int:
    from lrdiff_bench.report.tables import make_console
    from lrdiff_bench.run.job import STAGES, run_job
    from lrdiff_bench.run.screen import Screen

    # With --json the stages still show, but on stderr.
    screen = Screen(make_console(stderr=json))
    try:
        result = run_job(
            config, out=out, overwrite=overwrite, stages=STAGES if stages is None else stages, watcher=screen
        )
    finally:
        screen.close()
    if json:
        print_json(result.summary)
    if result.passed:
        return 0
    failed = ", ".join(name for name, held in result.summary["checks"].items() if not held)
    return _fail(f"a check failed: {failed}", f"see verification.json and parity.json in {result.folder}", 1)


def _show(report: dict[str, Any], name: str, json: bool) -> int:
    if json:
        print_json(report)
    else:
        from lrdiff_bench.report.tables import make_console
        from lrdiff_bench.run.screen import DRAW

        DRAW[name](make_console(), report)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
