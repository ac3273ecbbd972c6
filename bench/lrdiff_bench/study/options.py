"""The commands of ``lrdiff study``: typer alone is imported before one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import override

from lrdiff_bench.report.help import HELP_NAMES, OWN_MODEL, JsonOption, WholeHelpGroup

__all__ = ["StudyGroup", "add_study_commands"]


class StudyGroup(WholeHelpGroup):
    """``lrdiff study NAME`` is ``lrdiff study run NAME``: what is no command is a workload or a file."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in ("-h", "--help") and args[0] not in self.commands):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))


StorageOption = Annotated[str | None, typer.Option("--storage", metavar="URL", help="The storage of the trials, such as postgresql://user@host/name. Default: SQLite in the folder.")]  # fmt: skip
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The folder of the studies. Default: runs/study.")
]
RecordsOption = Annotated[
    Path | None,
    typer.Option("--records", metavar="DIR", help="Keep a small record of each study there, and take other studies from their records."),
]  # fmt: skip
FromOption = Annotated[
    Path | None, typer.Option("--from", metavar="DIR", help="The folder that holds the studies. Default: runs/study.")
]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[STUDY]...", help="The studies. Default: all finished ones by the full protocol.")]  # fmt: skip


def run(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[NAME|FILE.toml|MODULE:NAME]...", help="Workloads that `lrdiff study ls` lists, TOML files, or trainings of your own.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every workload that comes with the project and fetches nothing.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A small fraction of everything, marked QUICK in every output.")] = False,
    budget: Annotated[int | None, typer.Option("--budget", metavar="K", help="Points that each scheme tries in each search. Default: 64.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="S", help="Fresh seeds for the report. Default: those of the workload.")] = None,
    searches: Annotated[int | None, typer.Option("--searches", metavar="R", help="Independent searches per scheme (a way of setting the rates): 16, 24, 40, 64 or 100. Default: 16, or as many as there are.")] = None,
    until_resolved: Annotated[bool, typer.Option("--until-resolved", help="Add searches, stage by stage, until every comparison is settled; at most --searches, or 100.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="M", help="Stop after so many minutes, between two trainings; the same command goes on. With --until-resolved: add no stage of searches that would end later.")] = None,
    seeds_from: Annotated[int | None, typer.Option("--seeds-from", metavar="N", help="Add N to every seed: an independent replication, saved under its own name.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODULE:FACTORY", help=f"Y{OWN_MODEL[1:]}.")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="Your own rows: CSV, Parquet or Arrow.")] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")] = None,
    groups: Annotated[str | None, typer.Option("--groups", metavar="NAME=PATTERN,...", help="The groups of parameters that share a rate, such as body=layers.*,head=fc.")] = None,
    layer_decay: Annotated[bool, typer.Option("--layer-decay", help="For your own model: compare layer-wise decay (0.8, 0.95, 1/2.6 and tuned) with a single rate.")] = False,
    device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="The device for your own model: auto, cpu, cuda, cuda:1 or mps.")] = None,
    storage: StorageOption = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Train on the workers of a Dask scheduler.")] = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Study whether differential rates help; a study that was stopped is continued."""
    from lrdiff_bench.study.commands.run import run as run_studies

    own = {
        "model": model,
        "data": data,
        "target": target,
        "groups": groups,
        "device": device,
        "layer_decay": layer_decay or None,
    }
    return run_studies(
        targets or [], every=every, storage=storage, out=out,
        sizes={"quick": quick, "budget": budget, "seeds": seeds, "searches": searches, "seeds_from": seeds_from},
        scheduler=scheduler, until_resolved=until_resolved, minutes=minutes, own={key: value for key, value in own.items() if value is not None}, json=json,
    )  # fmt: skip


def ls(storage: StorageOption = None, source: FromOption = None, json: JsonOption = False) -> int:
    """List the workloads that can be studied, and the studies so far."""
    from lrdiff_bench.study.commands import finished

    return finished.ls(storage=storage, out=source, json=json)


def show(
    names: NamesArgument = None, storage: StorageOption = None, source: FromOption = None, json: JsonOption = False
) -> int:
    """Show finished studies."""
    from lrdiff_bench.study.commands import finished

    return finished.show(names or [], storage=storage, out=source, json=json)


def verdict(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A study that `lrdiff study ls` lists.")],
    storage: StorageOption = None,
    source: FromOption = None,
    json: JsonOption = False,
) -> int:
    """Show where a verdict comes from, down to its trials in the storage."""
    from lrdiff_bench.study.commands import finished

    return finished.verdict(name, storage=storage, out=source, json=json)


def export(
    names: NamesArgument = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.md", help="The page; pictures go beside it.")] = Path("convergence.md"),
    source: FromOption = None,
    storage: StorageOption = None,
    records: RecordsOption = None,
    against: Annotated[Path | None, typer.Option("--against", metavar="DIR", help="Records of the same studies on other seeds; the page tells which numbers come again.")] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Write only the page.")] = False,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="The heading of the page.")] = "Does it help?",
) -> int:  # fmt: skip
    """Write finished studies as one page with pictures."""
    from lrdiff_bench.study.commands import finished

    return finished.export(
        names or [], to=out, storage=storage, source=source, records=records, against=against,
        pictures=not no_pictures, title=title,
    )  # fmt: skip


def claims(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CLAIM|FILE.toml]...", help="Claims by name, or files. Default: all that come with the project.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.md", help="Write a page instead of showing them.")] = None,
    source: FromOption = None,
    storage: StorageOption = None,
    records: RecordsOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Show published claims about rates, and what finished studies say of them."""
    from lrdiff_bench.study.claims import command
    from lrdiff_bench.study.folder import DEFAULT_FOLDER

    folder = source or DEFAULT_FOLDER
    return command.claims(names or [], folder=folder, storage=storage, records=records, out=out, json=json)


def add_study_commands(app: typer.Typer) -> None:
    """Add ``study`` to the command line."""
    study = typer.Typer(
        cls=StudyGroup,
        help="Study whether differential rates help, on built-in workloads or your own model and rows.\n\n"
        "Give workloads, TOML files or --all, or one of these commands.",
        context_settings=HELP_NAMES,
        rich_markup_mode=None,
    )
    for command in (run, ls, show, verdict, export, claims):
        study.command()(command)
    app.add_typer(study, name="study")
