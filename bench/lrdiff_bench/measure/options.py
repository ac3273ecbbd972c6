"""The commands of ``lrdiff bench``: typer alone is imported before one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import override

from lrdiff_bench.report.errors import write_out
from lrdiff_bench.report.help import JsonOption, OfRecordOption, RecordOption, WholeHelpGroup
from lrdiff_bench.report.json import print_json

__all__ = ["BenchGroup", "add_bench_commands"]


class BenchGroup(WholeHelpGroup):
    """``lrdiff bench CASE --quick`` is ``lrdiff bench run CASE --quick``: what is no command is a case or an option."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in ("-h", "--help") and args[0] not in self.commands):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))


OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The folder of the records. Default: runs/bench.")
]
FromOption = Annotated[
    Path | None, typer.Option("--from", metavar="DIR", help="The folder that holds the records. Default: runs/bench.")
]
PageOption = Annotated[
    Path | None,
    typer.Option("--to", metavar="FILE.md", help="Write a page to this file as well, with pictures beside it."),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="K=V",
        help="A value of a parameter, or several: k=a,b. Give several options for several parameters; the others keep their defaults.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or mps.")]
ProcessesOption = Annotated[int, typer.Option("--processes", metavar="N", help="Fresh processes per case.")]
AffinityOption = Annotated[
    str | None, typer.Option("--affinity", metavar="LIST", help="Processors to run on, such as 0,1 (Linux only).")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A file, the beginning of its name, latest, or latest~1 (the one before).")
]


def run(
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="The cases. Default: all.")] = None,
    param: ParamOption = None,
    device: DeviceOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and samples: two minutes.")] = False,
    processes: ProcessesOption = 1,
    instructions: Annotated[bool, typer.Option("--instructions", help="Also count instructions with valgrind; takes two minutes per case.")] = False,
    affinity: AffinityOption = None,
    out: OutOption = None,
    to: PageOption = None,
    record: RecordOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Measure cases and save a record of each."""
    from lrdiff_bench.measure import command
    from lrdiff_bench.report.record import PageFiles

    return command.run(
        cases or [], param or [], device=device, quick=quick, processes=processes, instructions=instructions,
        affinity=affinity, folder=out, page=PageFiles(out=to, record=record), json=json,
    )  # fmt: skip


def ls(
    source: FromOption = None,
    cases: Annotated[bool, typer.Option("--cases", help="List the cases and their parameters instead.")] = False,
    json: JsonOption = False,
) -> int:
    """List the saved runs, or what can be measured."""
    from lrdiff_bench.measure import records_command

    return records_command.list_cases(json=json) if cases else records_command.list_runs(folder=source, json=json)


def show(
    run: RunArgument = "latest",
    to: PageOption = None,
    record: RecordOption = None,
    source: FromOption = None,
    json: JsonOption = False,
) -> int:
    """Show the records of a run."""
    from lrdiff_bench.measure import records_command
    from lrdiff_bench.report.record import PageFiles

    return records_command.show(run, folder=source, page=PageFiles(out=to, record=record), json=json)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="The run to compare with.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to judge.")] = "latest",
    across_machines: Annotated[bool, typer.Option("--across-machines", help="Compare runs of different machines anyway.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare runs with another torch, Python, kernel or number of threads anyway; what differs is named.")] = False,
    source: FromOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Compare two runs, case by case; the exit status is 1 if a case got slower."""
    from lrdiff_bench.measure import records_command

    return records_command.compare(
        run_a, run_b, across_machines=across_machines, anyway=anyway, folder=source, json=json
    )


def calibrate(
    case: Annotated[str, typer.Argument(metavar="[CASE]", help="The case to measure against itself.")] = "main_step",
    param: ParamOption = None,
    processes: Annotated[int, typer.Option("--processes", metavar="N", help="Pairs of processes.")] = 16,
    affinity: AffinityOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> int:
    """Measure this machine's A/A band: how much two measurements of the same code differ."""
    from lrdiff_bench.measure import ab_command

    return ab_command.calibrate(case, param or [], processes=processes, affinity=affinity, folder=out, json=json)


def ab(
    ref_a: Annotated[str, typer.Argument(metavar="REF_A", help="A commit, . for the working tree, or a parameter's value.")],
    ref_b: Annotated[str, typer.Argument(metavar="REF_B", help="The same for the other side; it is judged against REF_A.")],
    case: Annotated[str, typer.Argument(metavar="CASE", help="The case to measure.")],
    param: ParamOption = None,
    device: DeviceOption = None,
    processes: Annotated[int | None, typer.Option("--processes", metavar="N", help="Fresh processes per side. Default: 8; 5 with --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter blocks.")] = False,
    repository: Annotated[Path, typer.Option("--repository", metavar="DIR", help="The repository of the commits; a bare one is enough.")] = Path(),
    affinity: AffinityOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Compare two commits, or two implementations, in one case; the exit status is 1 if REF_B is slower."""
    from lrdiff_bench.measure import ab_command

    return ab_command.ab(
        ref_a, ref_b, case, param or [], device=device, processes=processes, quick=quick, repository=repository,
        affinity=affinity, folder=out, json=json,
    )  # fmt: skip


def history(
    range_: Annotated[str | None, typer.Argument(metavar="[RANGE]", help="Commits, in the form of git rev-list. Default: the last ten.")] = None,
    case: Annotated[list[str] | None, typer.Option("--case", metavar="CASE", help="Measure only this case. Give several.")] = None,
    device: DeviceOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few samples: only a check that it works.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="Measure every case, not only those of a quick run.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure commits that have results, too.")] = False,
    affinity: AffinityOption = None,
    repository: Annotated[Path, typer.Option("--repository", metavar="DIR", help="The repository to measure; a bare clone is enough.")] = Path(),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of asv's environments, results and page.")] = Path("runs", "history"),
    show: Annotated[bool, typer.Option("--open", help="Show the page in a browser when done.")] = False,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Measure commits with asv, skipping those measured before, and publish the page."""
    from lrdiff_bench.measure import command

    return command.history(
        range_, cases=case or [], device=device or "cpu", quick=quick, whole=whole, again=again, affinity=affinity,
        repository=repository, out=out, show=show, json=json,
    )  # fmt: skip


def regressions(
    page: Annotated[Path, typer.Argument(metavar="[DIR]", help="A page that asv publish has written, of any project.")] = Path("runs", "history", "html"),
    threshold: Annotated[str, typer.Option("--threshold", metavar="SHARE", help="Only what is slower by more than this, such as 5%.")] = "0",
    json: JsonOption = False,
) -> int:  # fmt: skip
    """List the regressions of an asv page as text; the exit status is 1 if there is one."""
    from lrdiff_bench.measure.foreign.command import share
    from lrdiff_bench.measure.regressions import list_regressions

    return list_regressions(page, threshold=share(threshold), json=json)


def pictures(
    run: RunArgument = "latest",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for the pictures.")] = Path(
        "runs", "bench"
    ),
    source: FromOption = None,
) -> int:
    """Draw a run: cost against the number of rates, cost against size, and how the times of cases changed over all runs."""
    from lrdiff_bench.measure import records_command

    return records_command.pictures(run, to=out, folder=source)


def population(
    quick: Annotated[bool, typer.Option("--quick", help="256 members instead of 4096 and a million: only a check that it works.")] = False,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="Threads of torch and of the kernel.")] = 2,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.md", help="Write the table to this file as well.")] = None,
    record: RecordOption = None,
    source: OfRecordOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Time thousands of small models at once against JAX and a plain loop; the exit status is 1 if a goal is missed."""
    from lrdiff_bench.measure.cases.population_table import present
    from lrdiff_bench.report.record import PageFiles

    files = PageFiles(out=out, record=record, source=source)
    return present(quick=quick, threads=threads, files=files, json=json)


def step(
    peers: Annotated[bool, typer.Option("--peers", help="Also compare with PyTorch's own optimizers and those of other libraries.")] = False,
    training: Annotated[bool, typer.Option("--training", help="Time whole training steps of small models instead: the optimizer's share, and what a faster one gains.")] = False,
    shape: Annotated[list[str] | None, typer.Option("--shape", metavar="NAME", help="Measure only these: mlp, transformer, many, bert, or rules (the transformer by every rule); with --training, this model. Give several.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="The number of threads. Default: 1, then 2.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Six rounds per row and no bert: only a check that it works.")] = False,
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.md", help="Write the table to this file as well.")] = None,
    record: RecordOption = None,
    source: OfRecordOption = None,
) -> int:  # fmt: skip
    """Time the optimizer step with many rates against one rate; with --peers, against other optimizers."""
    from lrdiff_bench.report.record import PageFiles

    files = PageFiles(out=out, record=record, source=source)
    if training:
        from lrdiff_bench.measure.cases.training_table import run_training_table

        document, text = run_training_table(models=shape, threads=threads, quick=quick, files=files)
    else:
        from lrdiff_bench.measure.cases.step_table import run_table

        document, text = run_table(peers=peers, shapes=shape, threads=threads, quick=quick, files=files)
        if files.out is not None:
            from lrdiff_bench.measure.pictures import draw_roofline

            draw_roofline(files.out.parent, {**document, "picture": f"{files.out.stem}-roofline"})
    if json:
        print_json(document)
    else:
        write_out(text)
    missed = [row for row in document["rows"] if row.get("verdict") == "missed"]
    return 1 if missed and not quick else 0  # six rounds on a busy machine fail nothing


def add_bench_commands(app: typer.Typer) -> None:
    """Add all of them to the sub-app ``bench``, whose group is :class:`BenchGroup`."""
    for command in (run, ls, show, compare, calibrate, ab, history, regressions, pictures, population, step):
        app.command()(command)
