"""The commands on a run that is there and on files exported from one: typer alone is imported before one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lrdiff_bench.report.help import OWN_MODEL, JsonOption
from lrdiff_bench.report.json import print_json

__all__ = ["add_use_commands"]

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def add_use_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    for command in (predict, export, verify, latency, targets, runs, trace):
        app.command()(command)


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL.onnx", help="A run folder, or an ONNX file exported from one.")],
    data: Annotated[str, typer.Option("--data", metavar="FILE_OR_-", help="Rows to predict, in a file as for `lrdiff run`; - reads standard input.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The file to write, its format by its suffix: .csv, .parquet, .arrow, .jsonl. Default: CSV on standard output.")] = None,
    quote_formulas: Annotated[bool, typer.Option("--quote-formulas", help="In CSV, put ' before text that a spreadsheet would take for a formula: = + - @.")] = False,
) -> None:  # fmt: skip
    """Predict the rows of a file with a trained run or an exported ONNX file."""
    from lrdiff_bench.run.use.predictions import write_predictions

    if run.suffix == ".onnx":
        from lrdiff_bench.run.use.export_command import predict_onnx

        table = predict_onnx(run, data)
    else:
        from lrdiff_bench.run.use.open_run import predict_file

        table = predict_file(run, data)
    write_predictions(table, out, quote_formulas=quote_formulas)


def export(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_MODULE:FACTORY", help=f"A run folder, or {OWN_MODEL}.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The file to write. Default: RUN/model.onnx.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", metavar="NAME", help="A runtime that must be able to read the file; `lrdiff targets` lists them.")] = None,
    variant: Annotated[str, typer.Option("--variant", metavar="LIST", help="Files to write, separated by commas: fp32, fp16, int8, int8-qdq.")] = "fp32",
    opset: Annotated[int | None, typer.Option("--opset", metavar="N", help="The ONNX operator set. Default: the newest that the target reads.")] = None,
    allow: Annotated[list[str] | None, typer.Option("--allow", metavar="K=V", help="How much a variant may lose, such as snr_db=20, flipped=0.02 or score_drop=0.01.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", metavar="DIR_OR_ZIP", help="Write the file with its proof: golden rows, model card, verifiers, snippets.")] = None,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY.pem", help="Sign the bundle with this private key.")] = None,
    string_inputs: Annotated[str, typer.Option("--string-inputs", metavar="on|off", help="Whether the file takes a run's categories as words, by ai.onnx.ml encoders, or their codes.")] = "on",
    ports: Annotated[Path | None, typer.Option("--ports", metavar="FILE.toml", help="The values that inputs may hold: ranges, categories, lengths.")] = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Export a run or your own model to ONNX; the file is written only after it passes verification."""
    from lrdiff_bench.run.use.export_command import export_model, on_or_off

    variants = variant.split(",")
    report = export_model(
        source, out, target=runtime, variants=variants, opset=opset, allow=allow or (), bundle=bundle, sign=sign,
        ports=ports, words=on_or_off("--string-inputs", string_inputs),
    )  # fmt: skip
    return _show(report, "export", json)


def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|BUNDLE", help="The file, or bundle, to check.")],
    run: Annotated[Path | None, typer.Option("--run", metavar="RUN", help="The run it must agree with. Default: the golden vectors beside the file.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", metavar="NAME", help="The runtime for golden vectors: onnxruntime, openvino, onnxruntime-node, onnxruntime-web or another backend of `lrdiff parity`.")] = "onnxruntime",
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Check that an ONNX file predicts the same as its run or the golden vectors beside it; or check a whole bundle."""
    from lrdiff_bench.run.use.export_command import verify_model

    return _show(verify_model(model, run, runtime), "verify" if run else "golden", json)


def latency(
    run: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL.onnx", help="A run folder with a model.onnx, or a file with golden vectors.")],
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="The execution provider. Default: CPUExecutionProvider.")] = None,
    threads: Annotated[str, typer.Option("--threads", metavar="LIST", help="Thread counts, separated by commas.")] = "1",
    batch: Annotated[str, typer.Option("--batch", metavar="LIST", help="Numbers of rows per call, separated by commas.")] = "1,32,1024",
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Time single calls of an ONNX file: median, 95th and 99th percentile."""
    from lrdiff_bench.run.use.export_command import latency as measure, whole_numbers

    counts, batches = whole_numbers("--threads", threads), whole_numbers("--batch", batch)
    return _show({**measure(run, threads=counts, batches=batches, provider=provider), "passed": True}, "latency", json)


def targets(json: JsonOption = False) -> int:
    """List the runtimes that a file can be exported for, and the ONNX versions they read."""
    from lrdiff_bench.run.use.export_command import list_targets

    return _show({"targets": list_targets(), "passed": True}, "targets", json)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder that holds the runs.")] = Path("runs"),
    json: JsonOption = False,
) -> None:
    """List the runs in a folder, oldest first, with their test results."""
    from lrdiff_bench.run.use.open_run import list_runs

    found = list_runs(folder)
    if json:
        print_json({"format": "lrdiff.runs", "version": 1, "runs": found})
        return
    from lrdiff_bench.report.tables import make_console
    from lrdiff_bench.run.screen import draw_runs

    draw_runs(make_console(), folder, found)


def trace(run: RunFolder, json: JsonOption = False) -> None:
    """Show again what a finished run printed."""
    from lrdiff_bench.run.use.open_run import retrace
    from lrdiff_core.errors import CheckpointError

    summary = retrace(run)
    if json:
        print_json(summary)
        return
    from lrdiff_bench.report.tables import heading, make_console
    from lrdiff_bench.run.screen import DRAW, TITLES, draw_unfinished

    console = make_console()
    for number, name in enumerate((name for name in summary if name in TITLES), start=1):
        heading(console, number, TITLES[name])
        try:
            DRAW[name](console, summary[name])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
            raise CheckpointError(
                f"{run / 'summary.json'} lacks what a run's summary holds: {name}", help="run again with `lrdiff run`"
            ) from problem
    if summary.get("missing"):
        draw_unfinished(console, run, summary["missing"])


def _show(report: dict[str, Any], name: str, json: bool) -> int:
    if json:
        print_json(report)
    else:
        from lrdiff_bench.report.tables import make_console
        from lrdiff_bench.run.screen import DRAW

        DRAW[name](make_console(), report)
    return 0 if report["passed"] else 1
