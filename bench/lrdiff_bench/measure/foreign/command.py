"""``lrdiff ab``: a foreign suite judged between two commits; returns the exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from lrdiff_bench.measure.conditions import cpu_list, warn_of_load
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.foreign import job, report
from lrdiff_bench.measure.foreign.checkouts import find_suite, open_checkouts
from lrdiff_bench.measure.foreign.process import list_cases
from lrdiff_bench.report.errors import print_error
from lrdiff_bench.report.json import json_text, print_json
from lrdiff_bench.report.tables import duration, make_console
from lrdiff_core.errors import ConfigError, InputError

__all__ = ["judge_suite", "share"]

SECONDS = 60.0  # of a case, where --minutes is not given


def judge_suite(
    ref_a: str,
    ref_b: str,
    suite: Path,
    *,
    only: Sequence[str],
    threshold: str,
    minutes: float | None,
    quick: bool,
    processes: int | None,
    python: str | None,
    install: str | None,
    import_from: Sequence[str],
    affinity: str | None,
    markdown: Path | None,
    bencher: Path | None,
    junit: Path | None,
    folder: Path | None,
    json: bool,
) -> int:
    """Measure, judge, write what was asked for; 1 where something became slower by more than the threshold."""
    beyond = share(threshold)
    for file in (markdown, bencher, junit):
        if file is not None and not file.parent.is_dir():  # before the minutes that measuring takes
            raise InputError(f"cannot write {file}: no folder {file.parent}", help="make the folder first")
    fewest = job.LOOKS[0].searches
    if processes is None:
        processes = fewest if quick else job.LOOKS[-1].searches
    if processes < fewest:
        raise ConfigError(f"{processes} processes a side are too few", help=f"write --processes {fewest} or more")
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g} is no time", help="write minutes above 0")
    found = find_suite(suite)
    console = make_console(stderr=True)
    warn_of_load(console)
    with open_checkouts(
        ref_a, ref_b, found, python=python or sys.executable, install=install, import_from=import_from,
        affinity=cpu_list(affinity),
    ) as (a, b):  # fmt: skip
        known, broken = list_cases(b.place)
        for name, why in broken.items():
            console.print(Text(f"left out, {name}: {why}", style="yellow"), soft_wrap=True)
        if not known and broken:
            name, why = next(iter(broken.items()))
            raise InputError(
                f"{name} cannot be read: {why}", help="where a compiled module is missing: --install COMMAND"
            )
        if not known:
            raise InputError(
                f"{suite} holds no benchmark that is timed", help="time_ functions, or tests with benchmark"
            )
        cases = job.choose(known, only)
        seconds = SECONDS if minutes is None else 60 * minutes / len(cases)
        console.print(
            f"{len(cases)} of {len(known)} benchmarks of {found.kind}, {b.label} against {a.label}: "
            f"at most {duration(len(cases) * seconds)}",
            style="dim",
        )

        def told(group: int, row: job.CaseResult) -> None:
            if not row.open:
                word = row.comparison.verdict if row.comparison is not None else f"not measured: {row.reason}"
                console.print(Text(f"{group:3d}  {row.case.id}: {word}", style="dim"), soft_wrap=True)

        rows = job.run_cases(cases, a, b, groups=processes, case_seconds=seconds, watch=told)
    file = store.new_run(folder or store.DEFAULT_FOLDER)
    for row in rows:
        if row.comparison is not None and row.records is not None:
            for record in (*row.records, row.comparison):
                store.append_record(file, record)
    command = shlex.join(["lrdiff", *sys.argv[1:]])
    title = f"{b.label} against {a.label}"
    texts: dict[Path, str] = {}
    if markdown is not None:
        texts[markdown] = report.markdown_text(rows, title=title, command=command, threshold=beyond)
    if bencher is not None:
        texts[bencher] = json_text(report.bencher_document(rows))
    if junit is not None:
        texts[junit] = report.junit_text(rows, name=f"lrdiff ab {found.path}", threshold=beyond)
    report.write_files(texts)
    if json:
        print_json(report.ab_document(rows, file=file, threshold=beyond))
    else:
        shown = make_console()
        shown.print(report.ab_table(rows))
        if any(row.comparison is not None for row in rows):
            shown.print(f"records: {file}", soft_wrap=True)
    return _status(rows, beyond)


def share(text: str) -> float:
    """A share written as people do.

    Raises:
        ConfigError: it is none.

    Example:
        >>> share("5%"), share("0.05"), share("0")
        (0.05, 0.05, 0.0)
    """
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ConfigError(f"--threshold {text} is not a share", help="write for example 5% or 0.05")
    return value


def _status(rows: Sequence[job.CaseResult], threshold: float) -> int:
    worse = report.regressions(rows, threshold)
    if worse:
        names = ", ".join(one.case for one in worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
        beyond = f" by more than {100 * threshold:g} %" if threshold else ""
        return print_error(f"slower{beyond}: {names}", "the table above has ratios and intervals")
    failed = [row for row in rows if row.failed and row.comparison is None]
    if failed:
        return print_error(
            f"not measured: {failed[0].case.id}: {failed[0].reason}"
            + (f", and {len(failed) - 1} more" if len(failed) > 1 else ""),
            "the others are judged; see the lines under the table",
        )
    return 0
