"""``lrdiff parity``: the same weights on every backend here, judged against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_parity_command"]


def add_parity_command(app: typer.Typer) -> None:
    """Add ``parity`` to the command line; nothing heavy is imported before it runs."""
    app.command()(parity)


def parity(
    sources: Annotated[list[str] | None, typer.Argument(metavar="[RUN|MODEL.onnx|MODULE:FACTORY]...", help="What predicts; left out: four built-in models.")] = None,  # noqa: E501
    backends: Annotated[str | None, typer.Option("--backends", metavar="LIST", help="Such as eager,onnxruntime [all].")] = None,  # noqa: E501
    data: Annotated[Path | None, typer.Option("--data", metavar="FILE", help="Rows to predict [held-out or golden ones].")] = None,  # noqa: E501
    training: Annotated[bool, typer.Option("--training", help="Compare training step by step instead.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write parity.json, parity.md and pictures there.")] = None,  # noqa: E501
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:  # fmt: skip
    """Compare predictions on every backend here with float64: agrees, differs, refused, unavailable and why."""
    if training:
        from lrdiff_bench.parity.training_command import (  # type: ignore[import-not-found, unused-ignore]
            training_parity,
        )

        status: int = training_parity(sources or [], backends=backends, data=data, out=out, json=json)
        return status
    from lrdiff_bench.parity.command import backend_names, prediction_parity

    prediction_parity(sources or [], backends=backend_names(backends), data=data, out=out, json=json)
    return 0
