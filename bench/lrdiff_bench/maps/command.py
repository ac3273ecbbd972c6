"""``lrdiff map``: typer alone is imported before the command is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_map_command"]


def map_rates(
    workload: Annotated[str | None, typer.Argument(metavar="[WORKLOAD]", help="A preset (seed, trainability), a TOML file as for `lrdiff run`, or MODULE:FACTORY of a MapWorkload; left out: preset seed.")] = None,  # noqa: E501
    x: Annotated[str | None, typer.Option("--x", metavar="GROUP:LO:HI", help="The x axis: rates of a group, or GROUP/OTHER:LO:HI for a ratio.")] = None,  # noqa: E501
    y: Annotated[str | None, typer.Option("--y", metavar="GROUP:LO:HI", help="The y axis, likewise.")] = None,
    size: Annotated[int | None, typer.Option("--size", metavar="N", help="Cells along each axis [64].")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="S", help="Trainings a cell [20].")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps of a training.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Or its epochs.")] = None,
    zoom: Annotated[str | None, typer.Option("--zoom", metavar="X:Y[:F]", help="Around a place, from F times below to F times above it [3].")] = None,  # noqa: E501
    target_loss: Annotated[float | None, typer.Option("--target-loss", metavar="L", help="The loss that steps are counted to.")] = None,  # noqa: E501
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the map [runs/NAME-map].")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A Dask cluster [processes of this machine].")] = None,  # noqa: E501
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes of this machine [one a core]; 0: in this one.")] = None,  # noqa: E501
    device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="TYPE", help="float32 or float64.")] = None,
    tile: Annotated[int | None, typer.Option("--tile", metavar="N", help="Cells along the edge of a tile.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be computed, and how long it takes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> None:  # fmt: skip
    """Map every pair of two rates: Zarr, pictures, and what they show in words."""
    from lrdiff_bench.maps.plan import MapRequest
    from lrdiff_bench.maps.report import drive

    request = MapRequest(
        workload=workload, x=x, y=y, size=size, seeds=seeds, steps=steps, epochs=epochs, zoom=zoom,
        target_loss=target_loss, device=device, dtype=dtype, tile=tile,
    )  # fmt: skip
    drive(request, out=out, scheduler=scheduler, workers=workers, only_plan=plan, json=json)


def add_map_command(app: typer.Typer) -> None:
    """Add ``lrdiff map``."""
    app.command("map")(map_rates)
