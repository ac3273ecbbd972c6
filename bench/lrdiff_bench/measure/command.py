"""The commands of ``lrdiff bench`` that measure; each returns the exit status."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lrdiff_bench.measure import screen
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.ab import Side, compare_sides, open_sides
from lrdiff_bench.measure.engine.calibration import band_for, calibration_of, store_calibration
from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.engine.suite import CaseRun, choose_cases, measure_cases
from lrdiff_bench.measure.page import write_page
from lrdiff_bench.report.errors import print_error
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.tables import make_console, plain_table, seconds
from lrdiff_bench.system.machine import describe_machine, load_average, usable_cpus
from lrdiff_core.errors import ConfigError, InputError, UnavailableError

__all__ = ["ab", "calibrate", "cpu_list", "history", "run"]

LEAST_PAIRS = 4  # fewer processes say nothing about how processes differ


def run(
    names: Sequence[str],
    parameters: Sequence[str],
    *,
    device: str | None,
    quick: bool,
    processes: int,
    instructions: bool,
    affinity: str | None,
    folder: Path | None,
    to: Path | None,
    json: bool,
) -> int:
    """Measure, showing a table that grows, and keep every record as soon as it is there."""
    if to is not None and not to.parent.is_dir():  # before the minutes that measuring takes
        raise InputError(f"cannot write {to}: no folder {to.parent}", help="make the folder first")
    cases = choose_cases(names, parameters, device=device, quick=quick)
    effort = Effort.quick(processes) if quick else Effort.whole(processes)
    file = store.new_run(folder or store.DEFAULT_FOLDER)
    # With --json the table still shows, but on stderr.
    console = make_console(stderr=json)
    _warn_of_load(make_console(stderr=True))
    rows = [CaseRun(case) for case in cases]
    place = {case.label: i for i, case in enumerate(cases)}
    with ExitStack() as stack:
        live = None
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, refresh_per_second=4, vertical_overflow="crop"))

        def began(row: CaseRun) -> None:
            if live is not None:
                live.update(screen.run_table(_measured(rows), working=row.case))

        for row in measure_cases(cases, effort, instructions=instructions, affinity=cpu_list(affinity), watch=began):
            rows[place[row.case.label]] = row
            if row.record is not None:
                store.append_record(file, row.record)
            if live is not None:
                live.update(screen.run_table(_measured(rows)))
        if live is not None:
            live.update(Text(""))
    console.print(screen.run_table(rows))
    records = [row.record for row in rows if row.record is not None]
    failed = [row.case.label for row in rows if row.failed]
    wrong = [record.case for record in records if record.parity is not None and not record.parity.held]
    if records:
        console.print(f"records: {file}", soft_wrap=True)
        if to is not None:
            write_page(records, to)
            console.print(f"page: {to}", soft_wrap=True)
    if json:
        print_json(
            {
                "format": "lrdiff.bench.run",
                "version": 1,
                "file": str(file) if records else None,
                "records": [record.model_dump() for record in records],
                "not_measured": [{"case": row.case.label, "reason": row.reason} for row in rows if row.reason],
                "parity_failed": wrong,
            }
        )
    if failed or wrong:
        return print_error(
            f"measured with faults: {', '.join([*failed, *wrong])}",
            "see the lines under the table, and the column error",
        )
    if not records:
        return print_error(
            "nothing could be measured here",
            "see the lines under the table for the reasons",
            UnavailableError.exit_status,
        )
    return 0


def calibrate(
    name: str,
    parameters: Sequence[str],
    *,
    processes: int,
    affinity: str | None = None,
    folder: Path | None,
    json: bool,
    quick: bool = False,
) -> int:
    """A long A/A comparison in fresh processes, and the band that follows from it."""
    if processes < LEAST_PAIRS:
        raise ConfigError(
            f"{processes} pairs of processes are too few for an A/A band",
            help=f"write --processes {LEAST_PAIRS} or more; 16 is usual",
        )
    case = _one_case(name, parameters, None)
    side = Side(label="itself", case=case)
    effort = _paired_effort(processes, quick=quick)
    console = make_console(stderr=True)
    _warn_of_load(console)
    pairing = compare_sides(side, side, effort, watch=_counter(console, processes), affinity=cpu_list(affinity))
    calibration = calibration_of(pairing, processes=8)
    file = store_calibration(calibration, folder or store.DEFAULT_FOLDER)
    if json:
        print_json(calibration.model_dump())
    else:
        print(
            f"A/A band of this machine ({case.label}, {processes} pairs of processes): "
            f"{100 * calibration.paired:.2f} % measured in turn, {100 * calibration.apart:.2f} % otherwise\n"
            f"kept in {file}; comparisons judge by it where it is wider than 2 %"
        )
    return 0


def ab(
    ref_a: str,
    ref_b: str,
    name: str,
    parameters: Sequence[str],
    *,
    device: str | None,
    processes: int,
    quick: bool,
    repository: Path,
    affinity: str | None,
    folder: Path | None,
    json: bool,
) -> int:
    """Two sides of one case, judged."""
    case = _one_case(name, parameters, device)
    place = folder or store.DEFAULT_FOLDER
    console = make_console(stderr=True)
    _warn_of_load(console)
    band = band_for(describe_machine(str(case.parameters.get("device", "cpu"))).id, place, paired=True)
    with open_sides(ref_a, ref_b, case, repository=repository) as (a, b):
        for side in (a, b):
            reason = CASES[name].unavailable(**side.case.parameters)
            if reason is not None:
                raise UnavailableError(f"{side.label}: {reason}", help="compare what is here")
        pairing = compare_sides(
            a, b, _paired_effort(processes, quick=quick), band=band, watch=_counter(console, processes),
            affinity=cpu_list(affinity),
        )  # fmt: skip
    file = store.new_run(place)
    for record in pairing.records:
        store.append_record(file, record)
    outcome = pairing.outcome
    wrong = [r.case for r in pairing.records if r.parity is not None and not r.parity.held]
    if json:
        print_json(
            {
                "case": case.label,
                "a": {"label": a.label, "median": pairing.records[0].median},
                "b": {"label": b.label, "median": pairing.records[1].median},
                "ratios": pairing.ratios,
                "file": str(file),
                **screen.outcome_document(outcome),
            }
        )
    else:
        shown = make_console()
        table = plain_table("side", "median", "error")
        for side, record in zip((a, b), pairing.records, strict=True):
            error = "" if record.parity is None else f"{record.parity.error:.1f} eps" if record.parity.held else "wrong"
            table.add_row(side.label, seconds(record.median), error)
        shown.print(table)
        text = screen.describe_outcome(outcome)
        shown.print(Text.assemble("   ", f"{b.label} against {a.label}: ", text), soft_wrap=True)
    if wrong:
        return print_error(f"too far from float64: {', '.join(wrong)}", "fast but wrong is no result")
    if outcome.verdict == "slower":
        return print_error(f"{b.label} is slower than {a.label} in {case.label}", f"samples are in {file}")
    return 0


def history(
    range_: str | None,
    *,
    cases: Sequence[str],
    device: str,
    quick: bool,
    whole: bool,
    affinity: str | None,
    repository: Path,
    out: Path,
    show: bool,
    json: bool,
) -> int:
    """Measure commits with asv and publish the page."""
    from lrdiff_bench.measure.history import measure_history, open_page

    _warn_of_load(make_console(stderr=True))
    report = measure_history(
        range_, repository=repository, out=out, cases=cases, device=device, quick=quick, whole=whole,
        affinity=cpu_list(affinity),
    )  # fmt: skip
    if json:
        print_json(report)
    else:
        print(
            f"page: {report['page']}\nrecords: {out / 'records'}\n"
            f"commits: {report['commits']} in {report['seconds'] / 60:.1f} minutes, "
            f"regressions: {len(report['regressions'])}"
        )
        if report["offline"] is not None:
            print(f"the page needs the network: {report['offline']}")
        for one in report["regressions"]:
            print(f"    {one['case']}: {one['factor']:.2f} times slower since {one['commit'][:12]}")
    if show:
        open_page(Path(report["page"]))
    if report["failures"]:
        first, *more = report["failures"]
        others = f" and {len(more)} more" if more else ""
        return print_error(
            f"not measured: {first['case']} of {first['commit'][:12]}{others}",
            "the reason is above, where the case failed; --json lists all of them",
        )
    return 0


def cpu_list(text: str | None) -> tuple[int, ...]:
    """Processors from ``0,2``.

    Raises:
        ConfigError: it is not a list of processors that this process may use.

    Example:
        >>> cpu_list(None), cpu_list("0")
        ((), (0,))
    """
    if text is None:
        return ()
    if not hasattr(os, "sched_setaffinity"):
        raise UnavailableError("this system cannot pin a process to a processor", help="leave out --affinity")
    usable = os.sched_getaffinity(0)
    if not all(part.isdecimal() and int(part) in usable for part in text.split(",")):
        raise ConfigError(f"--affinity {text} is not a list of processors", help=f"write some of {sorted(usable)}")
    return tuple(int(part) for part in text.split(","))


def _one_case(name: str, parameters: Sequence[str], device: str | None) -> Case:
    given = list(parameters) if device is None else [*parameters, f"device={device}"]
    if name not in CASES:
        raise ConfigError(f"there is no case {name!r}", help=f"cases: {', '.join(CASES)}")
    found = choose_cases([name], given) if given else [CASES[name].case()]
    if len(found) != 1:
        raise ConfigError(f"{len(found)} cases have these parameters", help="give each parameter one value")
    if found[0].metric != "time":
        raise ConfigError(f"{name} measures memory, not time", help="compare cases that are timed")
    return found[0]


def _paired_effort(processes: int, *, quick: bool) -> Effort:
    """Rounds of four blocks of 10 ms, thirty a pair of processes.

    Starting the processes takes longer than the rounds; with eight pairs, a slow-down of 5 % is found in 99 of 100
    (tests/bench/test_bench_hierarchical.py), with ten rounds in 60.
    """
    return Effort(
        processes=processes,
        samples=4 if quick else 30,
        block_seconds=0.002 if quick else 0.01,
        warmup_seconds=0.2 if quick else 1.0,
        most_seconds=2.0 if quick else 10.0,
    )


def _counter(console: Console, total: int) -> Any:
    return lambda done: console.print(f"pair {done} of {total}", style="dim")


def _warn_of_load(console: Console) -> None:
    load = load_average()
    if load is not None and load > usable_cpus() / 2:
        text = f"the machine is busy (load {load:.1f} on {usable_cpus()} processors): expect noise"
        console.print(text, style="yellow")


def _measured(rows: Sequence[CaseRun]) -> list[CaseRun]:
    return [row for row in rows if row.record is not None or row.reason is not None]
