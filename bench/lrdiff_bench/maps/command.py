"""``lrdiff map``: typer alone is imported before the command is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrdiff_bench.report.help import OWN_MODEL, JsonOption

__all__ = ["add_map_command"]


def map_rates(
    workload: Annotated[str | None, typer.Argument(metavar="[WORKLOAD]", help=f"A preset (seed, trainability), a TOML file as for `lrdiff run`, or {OWN_MODEL}. Default: the preset seed.")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="A table to train on: CSV, Parquet or Arrow, or a built-in one.")] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")] = None,
    x: Annotated[str | None, typer.Option("--x", metavar="GROUP:LO:HI", help="The x axis: rates of a group, or GROUP/OTHER:LO:HI for a ratio.")] = None,
    y: Annotated[str | None, typer.Option("--y", metavar="GROUP:LO:HI", help="The y axis, in the same form.")] = None,
    size: Annotated[int | None, typer.Option("--size", metavar="N", help="Cells along each axis. Default: 64.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="S", help="Trainings per cell. Default: 200 where that takes about a minute, else 20.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps per training.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Epochs per training, instead of steps.")] = None,
    zoom: Annotated[str | None, typer.Option("--zoom", metavar="X:Y[:F]", help="Zoom to a point, from F times below to F times above it. Default of F: 3.")] = None,
    target_loss: Annotated[float | None, typer.Option("--target-loss", metavar="L", help="The loss that counts as the target for the steps to target.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder of the map. Default: runs/NAME-map.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", metavar="ADDRESS", help="The address of a Dask scheduler. Default: processes on this machine.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes on this machine. Default: one per core; 0 trains in this process.")] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="TYPE", help="float32 or float64.")] = None,
    tile: Annotated[int | None, typer.Option("--tile", metavar="N", help="Cells along the edge of a tile.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be computed and how long it would take.")] = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Train every pair of two rates and draw the loss over them, with the findings in words."""
    from lrdiff_bench.maps.plan import MapRequest
    from lrdiff_bench.maps.report import drive

    request = MapRequest(
        workload=workload, data=data, target=target, x=x, y=y, size=size, seeds=seeds, steps=steps, epochs=epochs, zoom=zoom,
        target_loss=target_loss, device=device, dtype=dtype, tile=tile,
    )  # fmt: skip
    drive(request, out=out, scheduler=scheduler, workers=workers, only_plan=plan, json=json)


def add_map_command(app: typer.Typer) -> None:
    """Add ``lrdiff map``."""
    app.command("map")(map_rates)
