"""The command line of ``lrdiff tune``: typer alone is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrdiff_bench.report.help import JsonOption

__all__ = ["add_tune_command"]


def tune(
    target: Annotated[str | None, typer.Argument(metavar="[MODULE:NAME|NAME|FILE.toml]", help="Your own model (with --data) or training, a workload of `lrdiff study ls`, or a study's TOML file.")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="The rows your model learns from: CSV, Parquet or Arrow.")] = None,
    column: Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")] = None,
    groups: Annotated[str | None, typer.Option("--groups", metavar="NAME=PATTERN,...", help="The groups of parameters that share a rate. Default: each layer, or first, middle and last where there are many.")] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="The device for your own model: auto, cpu, cuda, cuda:1 or mps.")] = None,
    trainings: Annotated[int | None, typer.Option("--trainings", metavar="N", help="Trainings of the search. Default: 56 where they run side by side, 12 where they do not.")] = None,
    searches: Annotated[int | None, typer.Option("--searches", metavar="R", help="Searches of the verdict: 16, 24, 40, 64 or 100. Default: 16, or 5 where a training is dear.")] = None,
    until_resolved: Annotated[bool, typer.Option("--until-resolved", help="Go on until the verdict is settled; at most --searches, or 100.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="M", help="With --until-resolved: begin nothing that would end later.")] = None,
    no_verdict: Annotated[bool, typer.Option("--no-verdict", help="Only search: nothing is proven.")] = False,
    seeds_from: Annotated[int | None, typer.Option("--seeds-from", metavar="N", help="Add N to every seed: an independent replication.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder of the studies. Default: runs/study.")] = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Find rates for your model, and prove that they help, or that one rate suffices."""
    from lrdiff_bench.study.tune import command

    own = {"data": data, "target": column, "groups": groups, "device": device}
    return command.tune(
        target, own={key: value for key, value in own.items() if value is not None}, trainings=trainings,
        searches=searches, until_resolved=until_resolved, minutes=minutes, verdict=not no_verdict,
        seeds_from=seeds_from, out=out, json=json,
    )  # fmt: skip


def add_tune_command(app: typer.Typer) -> None:
    """Add ``tune`` to the command line."""
    app.command()(tune)
