"""The commands of ``lrdiff bench`` that read records: list, show, compare, draw; each returns the exit status."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lrdiff_bench.measure import screen
from lrdiff_bench.measure.differences import differences, same_conditions
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.calibration import band_for, calibration_for
from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.pairs.comparison import Comparison
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.engine.suite import CaseRun
from lrdiff_bench.measure.page import write_page
from lrdiff_bench.report.errors import print_error
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.record import PageFiles
from lrdiff_bench.report.tables import make_console, plain_table, seconds
from lrdiff_bench.stats.hierarchical import compare_unpaired
from lrdiff_core.errors import ConfigError, DataError

__all__ = ["compare", "list_cases", "list_runs", "pictures", "show"]

NAMED = 8  # cases of a run that a line of `ls` names


def list_cases(*, json: bool) -> int:
    """Every family with its parameters."""
    if json:
        print_json(
            {
                name: {"summary": family.summary, "version": family.version, "parameters": family.parameters}
                for name, family in CASES.items()
            }
        )
        return 0
    for name, family in CASES.items():
        print(f"{name} ({len(family.cases())} cases, {len(family.cases(quick=True))} quick)\n    {family.summary}")
        for key, values in family.parameters.items():
            print(f"    {key}: {', '.join(map(str, values))}")
    return 0


def list_runs(*, folder: Path | None, json: bool) -> int:
    """Every run kept, oldest first; one that cannot be read does not hide the others."""
    runs: list[tuple[Path, list[Record], list[Comparison], str | None]] = []
    for file in store.run_files(folder or store.DEFAULT_FOLDER):
        try:
            runs.append((file, store.read_run(file), store.read_comparisons(file), None))
        except DataError as problem:
            runs.append((file, [], [], problem.message))
    if json:
        print_json(
            [
                {
                    "file": str(file),
                    "records": len(rows),
                    "cases": [row.case for row in rows],
                    "comparisons": [{"case": c.case, "ratio": c.ratio, "verdict": c.verdict} for c in compared],
                    "fault": fault,
                }
                for file, rows, compared, fault in runs
            ]
        )
        return 0
    table = plain_table("run", "records", "commit", "cases")
    for file, records, compared, _ in runs:
        if not records:
            table.add_row(file.stem, "0", "", "")
            continue
        devices = [one for one in dict.fromkeys(record.machine.device for record in records) if one != "cpu"]
        names = dict.fromkeys(record.name for record in records)
        told = Counter(str(one.verdict) for one in compared)
        verdicts = [f"{count} {word}" if len(compared) > 1 else word for word, count in told.items()]
        cases = ", ".join([*list(names)[:NAMED], *(["..."] if len(names) > NAMED else []), *devices, *verdicts])
        table.add_row(file.stem, str(len(records)), commit_of(records[0]), cases)
    console = make_console()
    console.print(table if runs else f"no runs in {folder or store.DEFAULT_FOLDER}")
    for file, records, _, fault in runs:
        if not records:
            console.print(f"{file.stem}: {fault or 'ended before its first record'}", style="yellow")
    return 0


def show(name: str, *, folder: Path | None, page: PageFiles, json: bool) -> int:
    """The records of one run."""
    file = store.find_run(name, folder or store.DEFAULT_FOLDER)
    records = _read_whole(file)
    compared = store.read_comparisons(file)
    write_page(records, page)
    if json:
        print_json([one.model_dump(mode="json") for one in (*records, *compared)])
        return 0
    console = make_console()
    first = records[0]
    commits = list(dict.fromkeys(map(commit_of, records)))
    load = "unknown" if first.conditions.load is None else f"{first.conditions.load:.1f}"
    console.print(
        f"{first.created}, commit {', '.join(commits)}, torch {first.code.torch}, Python {first.code.python}\n"
        f"{first.machine.cpu}, {first.machine.cpus} cpus, machine {first.machine.id}, "
        f"load {load}, governor {first.conditions.governor or 'unknown'}"
    )
    # The two sides of a comparison of commits are told apart by nothing else.
    names = [f"{r.name} {commit_of(r)}" if len(commits) > 1 else r.name for r in records]
    rows = [CaseRun(Case(name=name, parameters=r.parameters, version=r.version, factory=_no_factory), record=r)
            for name, r in zip(names, records, strict=True)]  # fmt: skip
    console.print(screen.run_table(rows))
    for one in compared:
        console.print(screen.comparison_table(one))
    return 0


def compare(
    name_a: str, name_b: str, *, across_machines: bool, anyway: bool = False, folder: Path | None, json: bool
) -> int:
    """Two runs, by cases of the same label and version."""
    place = folder or store.DEFAULT_FOLDER
    first, second = (_read_whole(store.find_run(name, place)) for name in (name_a, name_b))
    if not (across_machines or anyway):
        store.same_machine([*first, *second])
    for name, records in ((name_a, first), (name_b, second)):
        twice = [case for case, count in Counter((r.case, r.version) for r in records).items() if count > 1]
        if twice:
            raise ConfigError(
                f"the run {name} holds {twice[0][0]} twice",
                help=f"it is a comparison, with its verdict: `lrdiff bench show {name}` shows it",
            )
    earlier = {(r.case, r.version): r for r in first if r.samples}
    found = [(earlier[r.case, r.version], r) for r in second if r.samples and (r.case, r.version) in earlier]
    if not found:
        raise ConfigError("the runs have no case of the same version in common", help="see `lrdiff bench show RUN`")
    if not anyway:
        same_conditions(found)
    outcomes = [
        compare_unpaired(a.by_process(), b.by_process(), band=band_for(a.machine.id, place, paired=False))
        for a, b in found
    ]
    slower = [b.case for (_, b), outcome in zip(found, outcomes, strict=True) if outcome.verdict == "slower"]
    if json:
        print_json(
            [
                {"case": b.case, "median_a": a.median, "median_b": b.median, "differences": differences(a, b)}
                | screen.outcome_document(outcome)
                for (a, b), outcome in zip(found, outcomes, strict=True)
            ]
        )
    else:
        table = plain_table("case", "before", "after", "ratio", "result")
        table.columns[0].no_wrap = False
        hidden = screen.constant_parameters([b for _, b in found])
        for (a, b), outcome in zip(found, outcomes, strict=True):
            label = f"{b.name} {screen.short_label(b, hidden)}".strip()
            table.add_row(label, seconds(a.median), seconds(b.median),
                          f"{outcome.ratio.estimate:.3f}", screen.brief_outcome(outcome))  # fmt: skip
        console = make_console()
        console.print(table)
        for text in dict.fromkeys(one for pair in found for one in differences(*pair)):
            console.print(f"differs: {text}", style="yellow", soft_wrap=True)
        kept = calibration_for(found[0][0].machine.id, place)
        if kept is not None:
            console.print(f"A/A band of this machine: {kept}", style="dim", soft_wrap=True)
        if any(outcome.processes == 1 for outcome in outcomes):
            console.print("one process a side cannot tell: measure with --processes 8", style="dim")
    return print_error(f"slower: {', '.join(slower)}", "see `lrdiff bench ab` for a closer look") if slower else 0


def pictures(name: str, *, to: Path, folder: Path | None) -> int:
    """Every picture that the records allow."""
    from lrdiff_bench.measure.pictures import draw_all

    place = folder or store.DEFAULT_FOLDER
    records = _read_whole(store.find_run(name, place))
    runs = [store.read_run(file) for file in store.run_files(place)]
    drawn = draw_all(records, runs, to)
    if not drawn:
        raise ConfigError(
            "this run holds nothing to draw", help="measure `lrdiff bench optimizer_step` as a whole, or several runs"
        )
    for file in drawn:
        print(file)
    return 0


def _read_whole(file: Path) -> list[Record]:
    records = store.read_run(file)
    if not records:
        raise DataError(f"the run {file.stem} ended before its first record", help="see `lrdiff bench ls` for others")
    return records


def commit_of(record: Record) -> str:
    return f"{(record.code.commit or 'none')[:10]}{'+' if record.code.dirty else ''}"


def _no_factory() -> Any:
    raise NotImplementedError("a case that was read from a record is not built again")
