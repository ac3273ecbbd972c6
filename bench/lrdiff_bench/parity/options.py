"""``lrdiff parity``: the same weights on every backend here, judged against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrdiff_bench.report.help import OWN_MODEL, JsonOption, OfRecordOption, RecordOption

__all__ = ["add_parity_command"]


def add_parity_command(app: typer.Typer) -> None:
    """Add ``parity`` to the command line; nothing heavy is imported before it runs."""
    app.command()(parity)


def parity(
    sources: Annotated[list[str] | None, typer.Argument(metavar="[RUN|MODEL.onnx|MODULE:FACTORY]...", help=f"A run folder, an ONNX file, or {OWN_MODEL}. Default: four built-in models.")] = None,
    backends: Annotated[str | None, typer.Option("--backends", metavar="LIST", help="Names separated by commas, such as eager,onnxruntime. Default: all.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="FILE", help="Rows to predict. Default: the held-out rows or the golden vectors.")] = None,
    training: Annotated[bool, typer.Option("--training", help="Compare training step by step instead of predictions.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write parity.json, parity.md and pictures into this folder.")] = None,
    record: RecordOption = None,
    source: OfRecordOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Compare predictions, or training, on every available backend with float64."""
    from lrdiff_bench.report.record import PageFiles

    if training:
        from lrdiff_bench.parity.training_command import (  # type: ignore[import-not-found, unused-ignore]
            training_parity,
        )

        status: int = training_parity(
            sources or [],
            backends=backends,
            data=data,
            out=out,
            files=PageFiles(record=record, source=source),
            json=json,
        )
        return status
    from lrdiff_bench.parity.command import backend_names, prediction_parity

    prediction_parity(
        sources or [], backends=backend_names(backends), data=data, out=out,
        files=PageFiles(record=record, source=source), json=json,
    )  # fmt: skip
    return 0
