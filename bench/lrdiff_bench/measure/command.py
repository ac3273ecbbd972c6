"""The commands of ``lrdiff bench`` that measure; each returns the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.live import Live
from rich.text import Text

from lrdiff_bench.measure import screen
from lrdiff_bench.measure.conditions import cpu_list, warn_of_load
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.suite import CaseRun, choose_cases, measure_cases
from lrdiff_bench.measure.page import write_page
from lrdiff_bench.report.errors import print_error
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.record import PageFiles
from lrdiff_bench.report.tables import duration, make_console
from lrdiff_core.errors import UnavailableError

__all__ = ["history", "run"]


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
    page: PageFiles,
    json: bool,
) -> int:
    """Measure, showing a table that grows, and keep every record as soon as it is there."""
    cases = choose_cases(names, parameters, device=device, quick=quick)
    effort = Effort.quick(processes) if quick else Effort.whole(processes)
    file = store.new_run(folder or store.DEFAULT_FOLDER)
    # With --json the table still shows, but on stderr.
    console = make_console(stderr=json)
    warn_of_load(make_console(stderr=True))
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
        write_page(records, page)
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


def history(
    range_: str | None,
    *,
    cases: Sequence[str],
    device: str,
    quick: bool,
    whole: bool,
    again: bool,
    affinity: str | None,
    repository: Path,
    out: Path,
    show: bool,
    json: bool,
) -> int:
    """Measure commits with asv and publish the page."""
    from lrdiff_bench.measure.history import measure_history, open_page
    from lrdiff_bench.measure.regressions import noise_words, regression_words

    warn_of_load(make_console(stderr=True))
    report = measure_history(
        range_, repository=repository, out=out, cases=cases, device=device, quick=quick, whole=whole, again=again,
        affinity=cpu_list(affinity),
    )  # fmt: skip
    if json:
        print_json(report)
    else:
        print(
            f"page: {report['page']}\nrecords: {out / 'records'}\n"
            f"commits: {report['commits']} in {duration(report['seconds'])}, "
            f"regressions: {len(report['regressions'])}"
        )
        if report["offline"] is not None:
            print(f"the page needs the network: {report['offline']}")
        noisy = {one["commit"] for one in report["noisy"]}
        for one in report["regressions"]:
            beside = " (beside other work)" if one["commit"] in noisy else ""
            print(f"    {regression_words(one)}{beside}")
        for one in report["withdrawn"]:
            print(f"    {one['case']}: not slower when {one['commit'][:12]} was measured again")
        for one in report["noisy"]:
            print(f"    {noise_words(one)}")
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


def _measured(rows: Sequence[CaseRun]) -> list[CaseRun]:
    return [row for row in rows if row.record is not None or row.reason is not None]
