"""The command ``lrdiff ab``: typer alone is imported before it is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrdiff_bench.report.help import JsonOption

__all__ = ["add_ab_command"]


def ab(
    ref_a: Annotated[str, typer.Argument(metavar="REF_A", help="The commit to compare with.")],
    ref_b: Annotated[str, typer.Argument(metavar="[REF_B]", help="The commit to judge; . is what the working tree holds of tracked files.")] = ".",
    suite: Annotated[Path, typer.Option("--suite", metavar="PATH", help="asv benchmarks (their folder, or the one of asv.conf.json), or tests that use pytest-benchmark.")] = Path("benchmarks"),
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="Only this benchmark, by its asv or pytest id; without parameters: all of them. Give several.")] = None,
    threshold: Annotated[str, typer.Option("--threshold", metavar="SHARE", help="End with status 1 only where something is slower by more than this, such as 5%.")] = "0",
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="M", help="Take about so long altogether. Default: up to a minute a benchmark.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One look at each benchmark; what it leaves unresolved has a price in time.")] = False,
    processes: Annotated[int | None, typer.Option("--processes", metavar="N", help="Most fresh processes per side and benchmark. Default: 24; 4 with --quick.")] = None,
    python: Annotated[str | None, typer.Option("--python", metavar="FILE", help="The Python whose environment runs the suite. Default: the one lrdiff runs in.")] = None,
    install: Annotated[str | None, typer.Option("--install", metavar="COMMAND", help="Run this in each commit's tree first, to build what is compiled; {target} is a folder that is imported from.")] = None,
    import_from: Annotated[list[str] | None, typer.Option("--import-from", metavar="DIR", help="Folder of the repository that packages are imported from. Default: src, if there is one, and the root. Give several.")] = None,
    affinity: Annotated[str | None, typer.Option("--affinity", metavar="LIST", help="Processors to run on, such as 0,1 (Linux only).")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write the verdicts as a comment for a pull request.")] = None,
    bencher: Annotated[Path | None, typer.Option("--bencher", metavar="FILE", help="Write them in Bencher Metric Format.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write them as JUnit XML.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder of the records. Default: runs/bench.")] = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Judge any asv or pytest-benchmark suite between two commits: faster, slower, equivalent, or what it takes to tell."""
    from lrdiff_bench.measure.foreign import command

    return command.judge_suite(
        ref_a, ref_b, suite, only=only or [], threshold=threshold, minutes=minutes, quick=quick, processes=processes,
        python=python, install=install, import_from=import_from or [], affinity=affinity, markdown=markdown,
        bencher=bencher, junit=junit, folder=out, json=json,
    )  # fmt: skip


def add_ab_command(app: typer.Typer) -> None:
    """Add it to the application."""
    app.command()(ab)
